//! Decoding of loads and stores that the syndrome does not describe.
