//! Export to a collector, over OTLP.
//!
//! In addition to the settings, these variables of the OpenTelemetry specification apply:
//! `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` for the name of the service,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_EXPORTER_OTLP_CERTIFICATE`,
//! `OTEL_BSP_*` for batches of spans, `OTEL_METRIC_EXPORT_INTERVAL` for how often metrics are sent.

use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{
    ExporterBuildError, MetricExporter, OTEL_EXPORTER_OTLP_TIMEOUT, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{Resource, error::OTelSdkError};
use reqwest::blocking::Client;

use crate::{
    config::telemetry::{OtlpEndpoint, OtlpProtocol, TelemetrySettings},
    roots::{Roots, RootsError},
};

/// Timeout of exports over HTTP, unless the environment sets one: OTLP's default.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why metrics or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The exporter could not be created.
    #[error("`telemetry.otlp_endpoint` cannot be used")]
    Collector(#[from] ExporterBuildError),
    /// There are no trusted certificates, so the collector could not be verified.
    #[error("`telemetry.otlp_endpoint` cannot be reached over TLS")]
    Roots(#[from] RootsError),
    /// The HTTP client could not be created.
    #[error("the HTTP client for `telemetry.otlp_endpoint` could not be made")]
    Http(#[from] reqwest::Error),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The registry behind `/metrics` could not be set up.
    #[error("the metrics could not be set up")]
    Metrics(#[from] OTelSdkError),
}

/// Creates the exporter of spans, or `None` without a collector in the settings. Call it within a
/// Tokio runtime, which must keep running.
pub(super) fn span_exporter(
    settings: &TelemetrySettings,
) -> Result<Option<SpanExporter>, TelemetryError> {
    let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
    let exporter = match settings.otlp_protocol {
        OtlpProtocol::Grpc => {
            let builder = SpanExporter::builder().with_tonic().with_endpoint(endpoint.url());
            if endpoint.is_https() {
                builder.with_tls_config(tls()?).build()
            } else {
                builder.build()
            }
        }
        OtlpProtocol::Http => {
            let builder =
                SpanExporter::builder().with_http().with_http_client(http_client(endpoint)?);
            builder.with_endpoint(endpoint.join("v1/traces")).build()
        }
    };
    Ok(Some(exporter?))
}

/// Creates the exporter of metrics, under the same conditions.
pub(super) fn metric_exporter(
    settings: &TelemetrySettings,
) -> Result<Option<MetricExporter>, TelemetryError> {
    let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
    let exporter = match settings.otlp_protocol {
        OtlpProtocol::Grpc => {
            let builder = MetricExporter::builder().with_tonic().with_endpoint(endpoint.url());
            if endpoint.is_https() {
                builder.with_tls_config(tls()?).build()
            } else {
                builder.build()
            }
        }
        OtlpProtocol::Http => {
            let builder =
                MetricExporter::builder().with_http().with_http_client(http_client(endpoint)?);
            builder.with_endpoint(endpoint.join("v1/metrics")).build()
        }
    };
    Ok(Some(exporter?))
}

/// The library does its own verification, and accepts only certificate authorities.
fn tls() -> Result<ClientTlsConfig, RootsError> {
    Ok(ClientTlsConfig::new().trust_anchors(Roots::load(None)?.store().roots))
}

/// Created on a separate thread: a blocking client must not be created within a runtime.
fn http_client(endpoint: &OtlpEndpoint) -> Result<Client, TelemetryError> {
    // Without TLS, no certificates are needed.
    let builder = if endpoint.is_https() {
        Client::builder().tls_backend_preconfigured(Roots::load(None)?.for_reqwest())
    } else {
        Client::builder().tls_certs_only([])
    };
    let timeout = std::env::var(OTEL_EXPORTER_OTLP_TIMEOUT).ok().and_then(|text| text.parse().ok());
    let builder = builder.timeout(timeout.map_or(HTTP_TIMEOUT, Duration::from_millis));
    let made = std::thread::Builder::new()
        .spawn(move || builder.build())
        .map_err(TelemetryError::Thread)?
        .join();
    Ok(made.map_err(|_| TelemetryError::Thread(std::io::Error::other("it panicked")))??)
}

/// The resource of traces and metrics: this service, unless the environment names another.
pub(super) fn resource() -> Resource {
    const SERVICE_NAME: Key = Key::from_static_str("service.name");
    let from_environment = Resource::builder().build();
    let is_named = from_environment
        .get(&SERVICE_NAME)
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if is_named {
        builder.build()
    } else {
        builder.with_service_name(env!("CARGO_PKG_NAME")).build()
    }
}
