//! Drops capabilities, and decides which ones the master keeps, and what for.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

/// What a master does after its start that needs a capability.
#[derive(Clone, Copy, Debug)]
pub struct Deeds {
    /// It starts and kills workers of another user.
    pub changes_user: bool,
    /// It, or its successor, loads a program.
    pub steers: bool,
    /// It, or its successor, opens listeners on ports that need a privilege.
    pub binds_low_ports: bool,
    /// It drops SYNs by a socket filter, which this kernel allows only with
    /// `CAP_NET_ADMIN`.
    pub administers_filters: bool,
    /// It reads its configuration or binary again, and its user alone may not.
    pub reads_private_files: bool,
}

impl Deeds {
    /// The capabilities that this needs, of those that are `held`.
    pub fn capabilities(self, held: CapabilitySet) -> CapabilitySet {
        // A worker needs it to empty its bounding set.
        let mut kept = CapabilitySet::SETPCAP;
        if self.changes_user {
            kept |= CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::KILL;
        }
        if self.steers {
            let program = CapabilitySet::BPF | CapabilitySet::PERFMON;
            // Older kernels and container engines do not know these two; there,
            // CAP_SYS_ADMIN includes them.
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

/// The capabilities that this process has now (its permitted set).
pub fn held() -> CapabilitySet {
    capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted)
}

/// Keeps `kept`, for this thread and for all that it starts. If this process does not
/// hold `CAP_SETPCAP`, the bounding set stays as it is.
///
/// # Errors
/// What the kernel says.
pub fn keep(kept: CapabilitySet) -> rustix::io::Result<()> {
    bound(kept)?;
    let before = capabilities(None)?;
    // The ambient set follows: the kernel keeps it within both the permitted and the
    // inheritable set.
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

/// From now on this thread, and all that it starts, cannot gain other capabilities than
/// `kept`. Without `CAP_SETPCAP`, this does nothing.
///
/// # Errors
/// What the kernel says.
pub fn bound(kept: CapabilitySet) -> rustix::io::Result<()> {
    if !held().contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for bit in 0..u64::BITS {
        // This includes capabilities that are newer than this crate's list of names.
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(capability) {
            // This kernel knows no capability from this bit on.
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

    /// Each thread has its own capabilities: the test process keeps the capabilities
    /// that it has.
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
