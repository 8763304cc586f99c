//! CPU clocks, and a description of the machine and the code.

use std::{
    collections::BTreeMap, env, fs, path::PathBuf, process::Command, thread, time::Duration,
};

use time::{OffsetDateTime, macros::format_description};

/// Ticks of `/proc/*/stat` in a second: `USER_HZ`, which is 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// How long a thread sleeps before its CPU time is read: the kernel updates it when the thread
/// leaves its core.
const LETTING_GO: Duration = Duration::from_micros(100);

/// The CPU time, user and system, of a process or thread, from `schedstat`, which is exact to the
/// nanosecond if the process does not run at that moment.
#[derive(Clone, Debug)]
pub(crate) struct CpuClock(PathBuf);

/// The value of a clock, by thread.
#[derive(Debug)]
pub(crate) struct CpuTime(BTreeMap<PathBuf, u64>);

impl CpuClock {
    /// Of the process with this id, with all its threads.
    pub(crate) fn of_process(id: u32) -> Self {
        Self(format!("/proc/{id}/task").into())
    }

    /// Of this process.
    pub(crate) fn of_this_process() -> Self {
        Self::of_process(std::process::id())
    }

    /// The current value.
    pub(crate) fn now(&self) -> CpuTime {
        thread::sleep(LETTING_GO);
        let tasks = fs::read_dir(&self.0)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", self.0.display()));
        let nanoseconds = |task: PathBuf| {
            // The file of a thread that has ended is gone.
            let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
            let first = schedstat
                .split(' ')
                .next()?
                .parse()
                .expect("`schedstat` begins with nanoseconds on a core");
            Some((task, first))
        };
        let times: BTreeMap<PathBuf, u64> =
            tasks.filter_map(|task| nanoseconds(task.unwrap().path())).collect();
        assert!(!times.is_empty(), "this kernel tells no CPU times in /proc/*/task/*/schedstat");
        CpuTime(times)
    }

    /// Microseconds since `before`.
    pub(crate) fn micros_since(&self, before: &CpuTime) -> f64 {
        let spent =
            |(task, time): (&PathBuf, &u64)| time - before.0.get(task).copied().unwrap_or(0);
        self.now().0.iter().map(spent).sum::<u64>() as f64 / 1000.0
    }
}

/// How busy the whole machine has been, in ticks of all its cores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    busy: f64,
    total: f64,
    ours: f64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap())
            .collect();
        // user nice system idle iowait irq softirq steal guest guest_nice; user already includes
        // guests.
        let total = ticks.iter().take(8).sum();
        Self { busy: total - ticks[3] - ticks[4], total, ours: ours() }
    }

    /// The share of the machine that other processes used since `before`, without this one and its
    /// children.
    fn of_others_since(&self, before: &Self) -> f64 {
        let others = (self.busy - before.busy) - (self.ours - before.ours) * TICKS_PER_SECOND;
        (others / (self.total - before.total).max(1.0)).max(0.0)
    }
}

/// CPU seconds of this process and of its children that have ended.
fn ours() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11..15].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}

/// The machine and the code that the figures are for.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) others: f64,
}

impl Description {
    pub(crate) fn now(before: &Usage) -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info
                .lines()
                .find(|line| line.split(':').next().is_some_and(|found| found.trim() == name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let number =
            |name, of| field(of).map(|value| format!(" {name} {value}")).unwrap_or_default();
        let cpu = field("model name").unwrap_or_else(|| env::consts::ARCH.to_owned());
        Self {
            date: OffsetDateTime::now_utc()
                .format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC"))
                .unwrap(),
            commit: commit(),
            cpu: cpu + &number("family", "cpu family") + &number("model", "model"),
            cores: thread::available_parallelism().map_or(1, Into::into),
            others: Usage::now().of_others_since(before),
        }
    }
}

/// The checked-out commit, and whether the files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let is_changed = git(&["status", "--porcelain", "--", "src", "Cargo.toml", "Cargo.lock"])
        .is_none_or(|changes| !changes.is_empty());
    if is_changed { commit + " with changes" } else { commit }
}
