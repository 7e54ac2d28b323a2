//! The PL031 real-time clock, as a guest sees it.
