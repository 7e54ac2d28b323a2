//! Device trees: the check, the board, the VMs, and the tree that a guest is given.
