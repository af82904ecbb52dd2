//! Capabilities: dropping them. Which ones the master keeps, and what for, is
//! decided here.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

/// What a master does once it serves, as far as a capability is needed for it.
#[derive(Clone, Copy, Debug)]
pub struct Deeds {
    /// It starts and kills workers of another user.
    pub changes_user: bool,
    /// It, or its successor, loads a program.
    pub steers: bool,
    /// It, or its successor, opens listeners on ports that not everybody may have.
    pub binds_low_ports: bool,
    /// It drops SYNs by a socket filter, which this kernel grants to network
    /// administrators only.
    pub administers_filters: bool,
    /// It reads its configuration or binary again, where its user alone could not.
    pub reads_private_files: bool,
}

impl Deeds {
    /// The capabilities for it, of those that are `held`.
    pub fn capabilities(self, held: CapabilitySet) -> CapabilitySet {
        // So that a worker can empty its bounding set.
        let mut kept = CapabilitySet::SETPCAP;
        if self.changes_user {
            kept |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
        }
        if self.steers {
            let program = CapabilitySet::BPF | CapabilitySet::PERFMON;
            // Of one part, older kernels and container engines.
            kept |= match held.contains(program) {
                true => program,
                false => program | CapabilitySet::SYS_ADMIN,
            };
        }
        if self.binds_low_ports {
            kept |= CapabilitySet::NET_BIND_SERVICE;
        }
        if self.administers_filters {
            kept |= CapabilitySet::NET_ADMIN;
        }
        if self.reads_private_files {
            kept |= CapabilitySet::DAC_READ_SEARCH;
        }
        kept & held
    }
}

/// What this process may do now.
pub fn held() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted)
}

/// Keeps `kept`, for this thread and whatever it starts. The bounding set stays
/// where `CAP_SETPCAP` is not held.
///
/// # Errors
/// What the kernel says.
pub fn keep(kept: CapabilitySet) -> rustix::io::Result<()> {
    bound(kept)?;
    let before = capabilities(None)?;
    // The ambient set follows: it is never more than these two have in common.
    set_capabilities(
        None,
        CapabilitySets {
            effective: before.effective & kept,
            permitted: before.permitted & kept,
            inheritable: before.inheritable & kept,
        },
    )
}

/// Leaves this thread no capability in any set (see [`keep`]).
///
/// # Errors
/// What the kernel says.
pub fn drop_all() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    keep(CapabilitySet::empty())
}

/// Makes it impossible for this thread, and whatever it starts, to come by other
/// capabilities than `kept`. No-op without `CAP_SETPCAP`.
///
/// # Errors
/// What the kernel says.
pub fn bound(kept: CapabilitySet) -> rustix::io::Result<()> {
    if !held().contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        // Also those that are newer than this list of names.
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            Ok(true) if !kept.contains(capability) => {
                remove_capability_from_bounding_set(capability)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Deeds = Deeds {
        changes_user: true,
        steers: true,
        binds_low_ports: true,
        administers_filters: true,
        reads_private_files: true,
    };

    #[test]
    fn nothing_is_kept_that_nothing_is_done_with() {
        let nothing = Deeds {
            changes_user: false,
            steers: false,
            binds_low_ports: false,
            administers_filters: false,
            reads_private_files: false,
        };
        let kept = nothing.capabilities(CapabilitySet::all());
        assert_eq!(kept, CapabilitySet::SETPCAP);
    }

    #[test]
    fn sys_admin_is_kept_only_in_place_of_what_is_finer() {
        let everything = ALL.capabilities(CapabilitySet::all());
        assert!(!everything.contains(CapabilitySet::SYS_ADMIN));
        let coarse = CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_PTRACE;
        assert_eq!(ALL.capabilities(coarse), CapabilitySet::SYS_ADMIN);
    }

    /// Threads have capabilities of their own: the test process keeps its.
    #[test]
    fn a_thread_drops_all_of_them() {
        let sets = std::thread::spawn(|| {
            drop_all().unwrap();
            capabilities(None).unwrap()
        });
        let sets = sets.join().unwrap();
        let left = sets.effective | sets.permitted | sets.inheritable;
        assert_eq!(left, CapabilitySet::empty());
    }
}
