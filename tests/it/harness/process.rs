//! A server process that ends with the test, and whose log is shown when the test fails.

use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait::eventually;

/// Timeout of a start; long, because several test processes share few cores.
const START: Duration = Duration::from_mins(1);
const STOP: Duration = Duration::from_secs(20);
/// How much of a log a failed test shows.
const LOG_TAIL: usize = 6_000;

/// The signals that tests send.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    /// A graceful stop, for most programs.
    Term,
    /// `PostgreSQL`'s immediate shutdown.
    Quit,
    Kill,
    /// Freezes it: it neither answers nor closes anything.
    Stop,
    /// Continues a frozen process.
    Continue,
}

/// Resources that a process uses.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    pub resident_kib: u64,
    pub threads: usize,
    pub descriptors: usize,
}

#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    stop: Signal,
}

impl Process {
    /// Starts `command` with its output in `dir/NAME.log`. Dropping the process sends `stop` and
    /// waits.
    pub fn spawn(name: &'static str, command: &mut Command, dir: &Path, stop: Signal) -> Self {
        let log = dir.join(format!("{name}-{}.log", super::free_port()));
        let output = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name, child, log, stop }
    }

    /// Like [`Self::spawn`], but standard error is a pipe. Returns the other end, which nobody
    /// reads yet.
    pub fn spawn_unread(
        name: &'static str,
        command: &mut Command,
        dir: &Path,
        stop: Signal,
    ) -> (Self, ChildStderr) {
        let log = dir.join(format!("{name}-{}.log", super::free_port()));
        let output = File::create(&log).unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let unread = child.stderr.take().unwrap();
        (Self { name, child, log, stop }, unread)
    }

    /// Waits until something listens on `address`.
    pub fn listening(mut self, address: SocketAddr) -> Self {
        self.wait_until(|| TcpStream::connect(address).is_ok().then_some(()));
        self
    }

    /// Waits until `ready` returns a value; panics with the log if the process ends before.
    pub fn wait_until<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> T {
        eventually(&format!("{} is not ready", self.name), START, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended with {status} instead of serving", self.name);
            }
            ready()
        })
    }

    /// Sends the signal, and waits until a frozen process is frozen: on a busy machine its threads
    /// may answer for a while.
    pub fn signal(&self, signal: Signal) {
        send(&self.child, signal);
        if matches!(signal, Signal::Stop) {
            eventually(&format!("{} is not frozen", self.name), STOP, || {
                is_frozen(self.child.id()).then_some(())
            });
        }
    }

    /// Sends the signal to this process first, and then to its children: a frozen process starts no
    /// others.
    pub fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id()))
                .unwrap();
        for child in children.split_whitespace() {
            // One may have ended since they were listed.
            let is_there = kill(child, signal) || !Path::new("/proc").join(child).exists();
            assert!(is_there, "cannot send {signal:?} to {child}");
        }
    }

    /// Its current resource use, from the kernel.
    pub fn usage(&self) -> Usage {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(proc.join("status")).unwrap();
        let figure = |name: &str| -> u64 {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_else(|| panic!("no {name} in {status}"));
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(proc.join("fd")).unwrap().count();
        Usage {
            resident_kib: figure("VmRSS:"),
            threads: usize::try_from(figure("Threads:")).unwrap(),
            descriptors,
        }
    }

    /// Its command line as other users of the machine see it.
    pub fn command_line(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/cmdline", self.child.id()))
            .unwrap()
            .replace('\0', " ")
    }

    /// Waits for the process to end by itself; panics if it does not within `deadline`.
    pub fn exited_within(&mut self, deadline: Duration) -> ExitStatus {
        eventually(&format!("{} does not end", self.name), deadline, || {
            self.child.try_wait().unwrap()
        })
    }

    /// The output of the process so far.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        // Also called while a test fails: its folder may be gone by then, and a second panic would
        // hide the first.
        if let Err(error) = File::open(&self.log).and_then(|mut log| log.read_to_end(&mut text)) {
            return format!("the log of {} cannot be read: {error}", self.name);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.ceil_char_boundary(log.len().saturating_sub(LOG_TAIL));
            eprintln!("----- log of {}\n{}\n-----", self.name, &log[tail..]);
        }
        if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return;
        }
        send(&self.child, self.stop);
        let start = std::time::Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if start.elapsed() > STOP {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether every thread of it is stopped, from the kernel's list.
fn is_frozen(id: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it, in brackets, may contain anything.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    })
}

/// Signals only the process that was started here. It is not yet reaped, so its id cannot belong to
/// another process.
fn send(child: &Child, signal: Signal) {
    let sent = kill(&child.id().to_string(), signal);
    assert!(sent || std::thread::panicking(), "cannot send {signal:?} to {}", child.id());
}

/// Whether the process existed.
fn kill(id: &str, signal: Signal) -> bool {
    let name = match signal {
        Signal::Term => "TERM",
        Signal::Quit => "QUIT",
        Signal::Kill => "KILL",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
    };
    Command::new("/bin/sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "kill", name, id])
        .status()
        .unwrap()
        .success()
}
