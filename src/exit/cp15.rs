//! CP15 and CP14 registers that trap: what the guest gets, one line each.

use super::{Next, skip};
use crate::inject;
use crate::syndrome::{Hsr, Transfer};
use crate::vcpu::{Reason, Vcpu};

pub(super) fn transfer(vcpu: &mut Vcpu, transfer: Transfer, hsr: Hsr) -> Next {
    vcpu.count(Reason::Cp15);
    let _ = (transfer, hsr);
    inject::undefined(&mut vcpu.context);
    let _ = skip;
    Next::Resume
}
