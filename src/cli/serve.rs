//! `countersign serve`

use crate::{
    app::{self, App, Listeners},
    config::Settings,
};

pub(super) fn run(settings: &Settings) -> super::Outcome {
    let log = app::init_log(settings)?;
    super::block_on(async {
        // Bound first: of two services on one address, the second should not touch the database.
        let listeners = Listeners::bind(settings)?;
        let app = App::build(settings, log.control()).await?;
        for warning in settings.warnings() {
            tracing::warn!(key = warning.key, "{}", warning.reason);
        }
        tracing::info!(
            http = %settings.server.http_listen.0, grpc = %settings.server.grpc_listen.0, admin = %settings.server.admin_listen.0,
            version = env!("CARGO_PKG_VERSION"), "serving"
        );
        app.serve(listeners, told_to_stop()?).await?;
        Ok(())
    })?
}

/// Is done at SIGTERM or SIGINT.
pub(super) fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
