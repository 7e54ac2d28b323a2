//! VMIDs with generations.
