//! `countersign serve`

use tokio::sync::watch;

use crate::{
    app::{self, App, Listeners},
    config::Settings,
};

pub(super) fn run(settings: &Settings) -> super::CommandResult {
    let log = app::init_log(settings)?;
    super::block_on(async {
        // Bind first: if another service has the address, this one should not touch the database.
        let listeners = Listeners::bind(settings)?;
        let app = App::build(settings, log.control()).await?;
        for warning in settings.warnings() {
            tracing::warn!(key = warning.key, "{}", warning.reason);
        }
        let (stop, hurry) = told_to_stop()?;
        let listeners = listeners.open()?;
        tracing::info!(
            http = %listeners.http(), grpc = %listeners.grpc(), admin = %listeners.admin(),
            version = env!("CARGO_PKG_VERSION"), "serving"
        );
        app.serve(listeners, stop, hurry).await?;
        Ok(())
    })?
}

/// Two futures: ready at the first SIGTERM or SIGINT, and at the second.
pub(super) fn told_to_stop() -> std::io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)>
{
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (count, counted) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    let after = |signals| {
        let mut counted = counted.clone();
        // The sender outlives the wait, because its task never ends.
        async move { drop(counted.wait_for(|count| *count >= signals).await) }
    };
    Ok((after(1), after(2)))
}
