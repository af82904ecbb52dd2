//! What a process may wait for in vain: a killed child that the kernel does not report,
//! and a file system that does not answer.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// A process whose end its parent does not hear of while this lives: the kernel reports
/// the end of a traced process to its tracer first. Another that cannot be reaped, since
/// it waits for a disk, is hard to come by.
///
/// The thread that made this has to drop it.
pub(crate) struct Unreapable(Pid);

impl Unreapable {
    /// # Errors
    /// This process may not trace.
    pub(crate) fn new(pid: Pid) -> Result<Self, String> {
        let number = pid.as_raw_nonzero().get();
        // SAFETY: it names no memory.
        match unsafe { libc::ptrace(libc::PTRACE_SEIZE, number, 0, 0) } {
            0 => Ok(Self(pid)),
            _ => Err(std::io::Error::last_os_error().to_string()),
        }
    }
}

impl Drop for Unreapable {
    fn drop(&mut self) {
        // Dead, it is reaped for its parent to be told; alive, it stays traced until the
        // test's thread ends.
        let _ = rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::NOHANG);
    }
}

/// A folder of a file system whose server never answers: the kernel's FUSE, and nothing
/// behind it.
pub(crate) struct Unanswering {
    folder: PathBuf,
    _device: File,
}

impl Unanswering {
    /// Mounts it over a folder.
    ///
    /// # Errors
    /// There is no FUSE, or this process may not mount.
    pub(crate) fn over(folder: &Path) -> Result<Self, String> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.map_err(|error| format!("open /dev/fuse: {error}"))?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let [target, options] = [folder.as_os_str().as_bytes(), options.as_bytes()]
            .map(|text| CString::new(text).unwrap());
        // SAFETY: all strings end in zero and live until the call returns.
        let mounted = unsafe {
            libc::mount(
                c"srv-test".as_ptr(),
                target.as_ptr(),
                c"fuse".as_ptr(),
                libc::MS_NOSUID | libc::MS_NODEV,
                options.as_ptr().cast(),
            )
        };
        match mounted {
            0 => Ok(Self {
                folder: folder.to_owned(),
                _device: device,
            }),
            _ => Err(format!("mount: {}", std::io::Error::last_os_error())),
        }
    }
}

impl Drop for Unanswering {
    fn drop(&mut self) {
        let target = CString::new(self.folder.as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends in zero and lives until the call returns.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}
