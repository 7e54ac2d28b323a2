//! The Hyp Syndrome Register, decoded.
