//! Resources used by this process, under the usual names of Prometheus clients. Only on Linux.

use super::metrics::Metrics;

#[cfg(not(target_os = "linux"))]
pub(super) fn observe(_: &Metrics) {}

#[cfg(target_os = "linux")]
pub(super) fn observe(metrics: &Metrics) {
    use procfs::process::{LimitValue, Process, Stat};

    let meter = metrics.meter();
    // If `/proc` is hidden, there are no such metrics, rather than wrong ones.
    let stat = || -> Option<Stat> { Process::myself().ok()?.stat().ok() };
    #[allow(clippy::cast_precision_loss, reason = "times of processes are far from 2^52 ticks")]
    let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;

    meter
        .f64_observable_counter("process.cpu")
        .with_unit("s")
        .with_description("CPU time of the process, user and system.")
        .with_callback(move |observer| {
            if let Some(stat) = stat() {
                observer.observe(seconds(stat.utime + stat.stime), &[]);
            }
        })
        .build();
    meter
        .f64_observable_gauge("process.start_time")
        .with_unit("s")
        .with_description("When the process was started, in seconds since 1970.")
        .with_callback(move |observer| {
            if let (Some(stat), Ok(boot)) = (stat(), procfs::boot_time_secs()) {
                #[allow(
                    clippy::cast_precision_loss,
                    reason = "seconds since 1970 are far from 2^52"
                )]
                observer.observe(boot as f64 + seconds(stat.starttime), &[]);
            }
        })
        .build();
    gauge(
        metrics,
        "process.resident_memory",
        "By",
        "Memory of the process that is resident.",
        move || Some(stat()?.rss.saturating_mul(procfs::page_size())),
    );
    gauge(metrics, "process.virtual_memory", "By", "Address space of the process.", move || {
        Some(stat()?.vsize)
    });
    gauge(metrics, "process.threads", "", "Threads of the process.", move || {
        u64::try_from(stat()?.num_threads).ok()
    });
    gauge(metrics, "process.open_fds", "", "Open file descriptors of the process.", || {
        u64::try_from(Process::myself().ok()?.fd_count().ok()?).ok()
    });
    gauge(metrics, "process.max_fds", "", "File descriptors that the process may open.", || {
        match Process::myself().ok()?.limits().ok()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        }
    });
}

#[cfg(target_os = "linux")]
fn gauge(
    metrics: &Metrics,
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    read: impl Fn() -> Option<u64> + Send + Sync + 'static,
) {
    let callback = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
        if let Some(value) = read() {
            observer.observe(value, &[]);
        }
    };
    metrics
        .meter()
        .u64_observable_gauge(name)
        .with_unit(unit)
        .with_description(description)
        .with_callback(callback)
        .build();
}
