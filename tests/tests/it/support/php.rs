//! PHP's process manager.

use std::fs;
use std::path::Path;
use std::process::Command;

use srv::measure::baseline::child::Child;

/// Starts it with three processes at `php.sock` in `folder`, and with these lines for its pool.
pub(crate) fn fpm(folder: &Path, more: &str) -> Child {
    let shown = folder.display();
    let text = format!(
        "[global]\nerror_log = /proc/self/fd/2\ndaemonize = no\n\
         [www]\nlisten = {shown}/php.sock\nlisten.mode = 0666\nuser = root\n\
         pm = static\npm.max_children = 3\nphp_admin_flag[log_errors] = on\n{more}"
    );
    let file = folder.join("fpm.conf");
    fs::write(&file, text).unwrap();
    // Debian's command has the version in its name.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "exec $(ls /usr/sbin/php-fpm* | head -n 1) \"$@\"",
        "sh",
    ]);
    command.args(["--nodaemonize", "--allow-to-run-as-root", "--fpm-config"]);
    let mut manager = Child::spawn(command.arg(&file)).unwrap();
    manager.await_line("ready to handle connections").unwrap();
    manager
}

/// Whether it is there.
pub(crate) fn is_installed() -> Result<(), String> {
    let names = fs::read_dir("/usr/sbin").map_err(|error| error.to_string())?;
    let mut names = names.flatten().map(|entry| entry.file_name());
    let found = names.any(|name| name.to_string_lossy().starts_with("php-fpm"));
    found
        .then_some(())
        .ok_or("no php-fpm: apt-get install php-fpm".into())
}
