//! What a kernel under test boots into: srv and its tests, both static, and the
//! few programs that these start, in an archive (`cpio`, made by busybox) that the
//! kernel unpacks into memory. There is no disk.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    step::{self, Step},
    workspace,
};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// This machine's programs that tests start, and that busybox has no match for.
const PROGRAMS: [&str; 4] = ["nginx", "nsenter", "setpriv", "unshare"];

/// What nginx's Lua module consists of.
const NGINX_MODULES: [&str; 2] = [
    "/usr/lib/nginx/modules/ndk_http_module.so",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so",
];
const LUA: &str = "/usr/share/lua";

/// Who is somebody there.
const USERS: &str = "root:x:0:0::/:/usr/bin/sh\nnobody:x:65534:65534::/:/usr/bin/sh\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Everything that was not installed.
pub(super) struct Programs {
    /// A static busybox.
    pub busybox: PathBuf,
    /// A static srv.
    pub srv: PathBuf,
    /// Its tests, static too.
    pub tests: PathBuf,
}

/// The archive: the tests run with these arguments, on the kernel whose modules
/// are in `kernel`.
///
/// # Errors
/// If a file cannot be read or written, or what a tool says.
pub(super) fn build(programs: &Programs, kernel: &Path, arguments: &[String]) -> Result<PathBuf> {
    let root = workspace::kernels().join("root");
    let _ = fs::remove_dir_all(&root);
    lay_out(&root, arguments).with_context(|| format!("lay out {}", root.display()))?;
    let bin = root.join("usr/bin");
    copy(&programs.busybox, &bin.join("busybox"))?;
    strip(&programs.srv, &bin.join("srv"))?;
    strip(&programs.tests, &bin.join("srv-tests"))?;
    for entry in fs::read_dir(kernel)?.flatten() {
        if entry.file_name().to_string_lossy().contains("_diag.ko") {
            copy(&entry.path(), &root.join("modules").join(entry.file_name()))?;
        }
    }
    for name in PROGRAMS {
        let program = workspace::program(name).with_context(|| format!("find {name}"))?;
        copy(&program, &bin.join(name))?;
        add_libraries(&root, &program)?;
    }
    for module in NGINX_MODULES {
        copy(Path::new(module), &within(&root, module))?;
        add_libraries(&root, Path::new(module))?;
    }
    step::show(
        "copy Lua's library",
        Command::new("cp")
            .args(["--recursive", "--dereference", "--parents", LUA])
            .arg(&root),
    )?;
    archive(&programs.busybox, &root)
}

/// Folders and the files that are written here.
fn lay_out(root: &Path, arguments: &[String]) -> std::io::Result<()> {
    let folders = "dev etc modules proc run sys tmp usr/bin usr/lib usr/lib64 usr/local/bin \
                   usr/sbin var/lib/nginx var/log/nginx";
    for folder in folders.split(' ') {
        fs::create_dir_all(root.join(folder))?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        symlink(Path::new("usr").join(name), root.join(name))?;
    }
    // Scripts name it.
    symlink("../local/bin/sh", root.join("usr/bin/sh"))?;
    fs::write(root.join("etc/passwd"), USERS)?;
    fs::write(root.join("etc/group"), GROUPS)?;
    fs::write(root.join("arguments"), arguments.join(" "))?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, PermissionsExt::from_mode(0o755))
}

/// The shared libraries that a program needs, and the linker that loads them.
fn add_libraries(root: &Path, program: &Path) -> Result<()> {
    let said = step::ask(Command::new("ldd").arg(program))?;
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    paths
        .filter(|path| !within(root, path).exists())
        .try_for_each(|path| copy(Path::new(path), &within(root, path)))
}

fn within(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Without its debug information it is a fifth as large.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("strip");
    step::show("strip a program", command.arg("-o").arg(to).arg(program))
}

fn archive(busybox: &Path, root: &Path) -> Result<PathBuf> {
    const PACK: &str = "cd \"$1\" && find . | \"$2\" cpio -o -H newc -R root:root >\"$3\"";
    let archive = workspace::kernels().join("initramfs");
    Step {
        what: "pack the initramfs".into(),
        why: "a kernel under test boots into it".into(),
        mend: format!("look at {}", root.display()),
    }
    .run(
        Command::new("sh")
            .args(["-c", PACK, "sh"])
            .args([root, busybox, &archive]),
    )?;
    Ok(archive)
}
