//! Traces: a span for a decision, and one for each of its steps that may take time.
//!
//! Spans are created only if the trace is sampled. The gateway decides that in the W3C trace
//! context of its request; without one, `telemetry.trace_sample` does.

use std::{fmt, time::Duration};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceId,
    propagation::{Extractor, TextMapPropagator},
    trace::{
        Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};

use super::{TelemetryError, otlp};
use crate::{config::telemetry::TelemetrySettings, domain::auth_request::TraceHeaders};

/// Sends spans to the collector, if there is one.
#[derive(Clone, Default)]
pub struct Traces {
    sent: Option<(SdkTracerProvider, SdkTracer)>,
}

impl Traces {
    /// Sends to the collector if `settings` name one, otherwise nowhere. Call it within a Tokio
    /// runtime, which must keep running.
    pub fn new(settings: &TelemetrySettings) -> Result<Self, TelemetryError> {
        let Some(exporter) = otlp::span_exporter(settings)? else { return Ok(Self::default()) };
        let sampler =
            Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.trace_sample.get())));
        let builder =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler);
        let provider = builder.with_resource(otlp::resource()).build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Self { sent: Some((provider, tracer)) })
    }

    /// Sends the remaining spans.
    pub fn shut_down(&self, timeout: Duration) {
        if let Some((provider, _)) = &self.sent
            && let Err(error) = provider.shutdown_with_timeout(timeout)
        {
            tracing::warn!(error = %error, "the last spans could not be sent");
        }
    }

    /// Begins the span `name` as part of the trace in `headers`, if that is sampled.
    pub(super) fn begin(
        &self,
        name: &'static str,
        headers: TraceHeaders<'_>,
    ) -> Option<Box<Trace>> {
        let (_, tracer) = self.sent.as_ref()?;
        let span = tracer.build_with_context(
            SpanBuilder::from_name(name).with_kind(SpanKind::Server),
            &parent(headers),
        );
        span.is_recording().then(|| {
            Box::new(Trace { context: Context::new().with_span(span), tracer: tracer.clone() })
        })
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("are_sent", &self.sent.is_some()).finish()
    }
}

/// The span of a decision in progress.
pub(super) struct Trace {
    context: Context,
    tracer: SdkTracer,
}

impl Trace {
    /// Begins a step, which ends when it is dropped.
    pub(super) fn step(&self, name: &'static str, kind: SpanKind) -> Box<Span> {
        Box::new(
            self.tracer
                .build_with_context(SpanBuilder::from_name(name).with_kind(kind), &self.context),
        )
    }

    pub(super) fn ids(&self) -> TraceIds {
        let span = self.context.span();
        let context = span.span_context();
        TraceIds { trace: context.trace_id(), span: context.span_id() }
    }

    /// Ends the span. Only failures of this service are errors: a denial is a normal result.
    pub(super) fn end(
        self,
        attributes: impl IntoIterator<Item = KeyValue>,
        failure: Option<String>,
    ) {
        let span = self.context.span();
        span.set_attributes(attributes);
        if let Some(description) = failure {
            span.set_status(Status::error(description));
        }
        span.end();
    }
}

/// Identifies the trace of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TraceIds {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

impl TraceIds {
    /// The ids of the caller's span, for when nothing is traced here.
    pub(super) fn of_parent(headers: TraceHeaders<'_>) -> Option<Self> {
        headers.traceparent?;
        let parent = parent(headers);
        let span = parent.span();
        let context = span.span_context();
        context.is_valid().then(|| Self { trace: context.trace_id(), span: context.span_id() })
    }
}

/// The trace context in `headers`; empty if it is malformed.
fn parent(headers: TraceHeaders<'_>) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(headers))
}

struct Carrier<'a>(TraceHeaders<'a>);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.0.traceparent,
            "tracestate" => self.0.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(traceparent: &str) -> Option<String> {
        let headers = TraceHeaders { traceparent: Some(traceparent), tracestate: None };
        TraceIds::of_parent(headers).map(|ids| format!("{} {}", ids.trace, ids.span))
    }

    #[test]
    fn a_malformed_context_is_none() {
        let whole = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(
            ids(whole).as_deref(),
            Some("0af7651916cd43dd8448eb211c80319c b7ad6b7169203331")
        );
        assert_eq!(
            ids(&whole.replace("-01", "-00")),
            ids(whole),
            "that it is not sampled says nothing about its ids"
        );
        for broken in [
            "",
            "00",
            &whole[..40],
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            &whole.replace("0af", "0aX"),
        ] {
            assert_eq!(ids(broken), None, "{broken}");
        }
        assert_eq!(TraceIds::of_parent(TraceHeaders::default()), None);
    }
}
