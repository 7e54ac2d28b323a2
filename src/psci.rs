//! The Power State Coordination Interface, as a guest sees it.
