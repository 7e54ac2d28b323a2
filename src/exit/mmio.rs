//! Loads, stores and fetches that stage 2 stopped.

use super::{Next, external_abort, skip};
use crate::addr::Ipa;
use crate::bus::{Device, PLACES};
use crate::inject::{self, Fault};
use crate::machine::Live;
use crate::stage2::Leaf;
use crate::syndrome::{DataAbort, FaultStatus, Hsr, PrefetchAbort};
use crate::vcpu::{Reason, Vcpu};

/// The address that stage 2 stopped, from HPFAR and the virtual address.
fn ipa(far: u32) -> Ipa {
    Ipa(u64::from(Live::hpfar() & !0xf) << 8 | u64::from(far & 0xfff))
}

#[inline(always)]
pub(super) fn data_abort(vcpu: &mut Vcpu, abort: DataAbort) -> Next {
    vcpu.count(Reason::DataAbort);
    let address = Live::hdfar();
    if !abort.mmio() {
        return not_mmio(vcpu, abort, address);
    }
    let ipa = ipa(address);
    let mut state = vcpu.vm.lock();
    match state.memory.space.lookup(ipa) {
        Leaf::Slot(slot) if abort.isv() => {
            let Some(place) = PLACES.get(slot as usize) else { return Next::Resume };
            let offset = ipa.0 as u32 - place.base;
            let _ = (offset, place.device == Device::Uart);
            Next::Resume
        }
        Leaf::Ram { attrs, .. } if attrs.perms.write || !abort.write() => Next::Resume,
        _ => {
            drop(state);
            external_abort(vcpu, address, abort.write())
        }
    }
}
