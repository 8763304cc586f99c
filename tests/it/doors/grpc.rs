//! The gRPC door: what Envoy gets from it, and the other services there.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::gateways::every::{IDENTITY, names};
use crate::harness::{
    CheckAnswer, Claims, Countersign, Deployment, Key, bare_request, check_request, http_attributes,
};

#[tokio::test]
async fn an_allow_overwrites_every_identity_header() {
    let (_deployment, countersign, key) = alice();

    let answer = countersign
        .ext_authz()
        .check(check_request(&Claims::of("alice").authorization(&key)))
        .await;

    let headers = &answer.ok().headers;
    let set = headers.iter().map(|option| option.header.as_ref().unwrap().key.as_str());
    assert_eq!(names(set), names(IDENTITY));
    assert_eq!(headers.len(), IDENTITY.len(), "each once");
    for option in headers {
        // Unset meant overwrite in one version of Envoy and append in another.
        assert_eq!(
            option.append_action(),
            HeaderAppendAction::OverwriteIfExistsOrAdd,
            "{option:?}"
        );
    }
    let removed: Vec<String> =
        answer.ok().headers_to_remove.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!(removed, ["authorization"]);
}

/// Later filters and access logs read the same as the back end.
#[tokio::test]
async fn dynamic_metadata_repeats_the_headers() {
    let (_deployment, countersign, key) = alice();

    let answer = countersign
        .ext_authz()
        .check(check_request(&Claims::of("alice").authorization(&key)))
        .await;

    let metadata = answer.response.dynamic_metadata.as_ref().expect("no dynamic metadata");
    let Some(Kind::StructValue(ours)) = &metadata.fields["countersign"].kind else {
        panic!("{metadata:?}")
    };
    let mut in_metadata: Vec<&str> =
        ours.fields.values().filter_map(|value| text(value.kind.as_ref())).collect();
    let mut in_headers: Vec<&str> = answer
        .ok()
        .headers
        .iter()
        .map(|option| option.header.as_ref().unwrap().value.as_str())
        .collect();
    in_metadata.sort_unstable();
    in_headers.sort_unstable();
    assert_eq!(in_metadata, in_headers);
}

/// Some gateways cache answers. An answer about a single-use token must not be cached.
#[tokio::test]
async fn an_allow_of_a_single_use_token_says_that_it_cannot_be_kept() {
    let (deployment, countersign, key) = alice();
    let access_token = deployment.tokens("alice").access;
    let mut ext_authz = countersign.ext_authz();
    for (authorization, cacheable_for) in [
        (Claims::of("alice").authorization(&key), Some(&Kind::NumberValue(0.0))),
        (format!("Bearer {access_token}"), None),
    ] {
        let answer = ext_authz.check(check_request(&authorization)).await;
        answer.ok();
        let told = ours(&answer);
        assert_eq!(
            told.get("cacheable_for").and_then(|value| value.kind.as_ref()),
            cacheable_for,
            "{told:?}"
        );
        assert_eq!(told.len(), IDENTITY.len() + usize::from(cacheable_for.is_some()));
    }
}

/// For access logs, which see no header of a denial. The exact reason is never sent to clients.
#[tokio::test]
async fn a_denial_has_metadata_too() {
    let (_deployment, countersign, key) = alice();
    let mut ext_authz = countersign.ext_authz();
    for (authorization, expected) in [
        ("JWT nonsense".to_owned(), "malformed_credentials"),
        (Claims::of("nobody").authorization(&key), "invalid_token"),
    ] {
        let answer = ext_authz.check(check_request(&authorization)).await;
        assert_eq!(code(&answer), expected);
        let told = ours(&answer);
        assert_eq!(names(told.keys().map(String::as_str)), names(["code", "decision_id"]));
        assert_eq!(text(told["code"].kind.as_ref()), Some(expected));
        let id = answer.denied().headers.iter().find_map(|option| {
            option
                .header
                .as_ref()
                .filter(|header| header.key == "x-auth-decision-id")
                .map(|header| header.value.as_str())
        });
        assert_eq!(text(told["decision_id"].kind.as_ref()), id);
    }
}

/// Control planes add names of their own, but none like ours.
#[tokio::test]
async fn a_name_that_is_meant_to_ask_for_scopes_is_refused() {
    let (_deployment, countersign, key) = alice();
    let token = Claims::of("alice").authorization(&key);
    let asking = |name: &str| {
        let mut request = check_request(&token);
        request
            .attributes
            .as_mut()
            .unwrap()
            .context_extensions
            .insert(name.to_owned(), "admin".to_owned());
        request
    };
    let mut ext_authz = countersign.ext_authz();
    for name in ["scopes", "Scope", "SCOPE", " scope", "required-scope"] {
        let answer = ext_authz.check(asking(name)).await;
        assert_eq!((answer.code(), code(&answer).as_str()), (13, "misconfigured"), "{name}");
        assert_eq!(answer.denied().status.as_ref().unwrap().code, 500, "{name}");
    }
    assert_eq!(code(&ext_authz.check(asking("scope")).await), "insufficient_scope");
    ext_authz.check(asking("virtual_host")).await.ok();
}

/// An HTTP/2 client controls the attribute (`:scheme`); Envoy sets the header.
#[tokio::test]
async fn the_scheme_is_envoys() {
    let (_deployment, countersign, key) = alice();
    let mut ext_authz = countersign.ext_authz();
    for (attribute, header, is_good) in [
        ("https", None, true),
        ("http", None, false),
        ("http", Some("https"), true),
        ("https", Some("http"), false),
        ("https", Some(""), true),
        ("https", Some("https,http"), false),
        ("https", Some("wss"), false),
        ("", Some("https"), true),
        ("", None, true),
    ] {
        let token = Claims::of("alice").with("htu", "https://gateway.test/").authorization(&key);
        let headers = [("authorization", token.as_str())]
            .into_iter()
            .chain(header.map(|scheme| ("x-forwarded-proto", scheme)));
        let http = |headers, header_map| HttpRequest {
            scheme: attribute.to_owned(),
            headers,
            header_map,
            ..bare_request()
        };
        let plain = http(
            headers.clone().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            None,
        );
        let raw = headers.map(|(name, value)| HeaderValue {
            key: name.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        });
        // The same token in another attempt would be a replay.
        let raw = HttpRequest {
            id: plain.id.clone(),
            ..http(HashMap::new(), Some(HeaderMap { headers: raw.collect() }))
        };
        for request in [plain, raw] {
            let answer = ext_authz.check(http_attributes(request)).await;
            assert_eq!(answer.code() == 0, is_good, "{attribute}, {header:?}: {answer:?}");
        }
    }
}

/// What Countersign writes to the dynamic metadata.
fn ours(answer: &CheckAnswer) -> &HashMap<String, envoy_types::pb::google::protobuf::Value> {
    let metadata = answer.response.dynamic_metadata.as_ref().expect("no dynamic metadata");
    assert_eq!(metadata.fields.len(), 1);
    let Some(Kind::StructValue(ours)) = &metadata.fields["countersign"].kind else {
        panic!("{metadata:?}")
    };
    &ours.fields
}

/// With `encode_raw_headers` only `header_map` is filled.
#[tokio::test]
async fn raw_headers_are_read() {
    let (_deployment, countersign, key) = alice();
    let raw = |values: &[&str]| {
        let headers = values.iter().map(|value| HeaderValue {
            key: "authorization".to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        });
        http_attributes(HttpRequest {
            header_map: Some(HeaderMap { headers: headers.collect() }),
            ..bare_request()
        })
    };
    let [first, second] = [(); 2].map(|()| Claims::of("alice").authorization(&key));
    let mut ext_authz = countersign.ext_authz();

    assert_eq!(code(&ext_authz.check(raw(&[&first, &second])).await), "malformed_credentials");
    ext_authz.check(raw(&[&first])).await.ok();
    assert_eq!(code(&ext_authz.check(raw(&[&first])).await), "replayed");
    // The same token in both fields is one presentation; a different token in the other field is a
    // second one.
    let both = |in_map: &str, in_raw: &str| {
        let mut request = raw(&[in_raw]);
        let http =
            request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
        http.headers = HashMap::from([("authorization".to_owned(), in_map.to_owned())]);
        request
    };
    let third = Claims::of("alice").authorization(&key);
    assert_eq!(code(&ext_authz.check(both(&third, &second)).await), "malformed_credentials");
}

/// Bytes that are not text are not a token, and cause no crash.
#[tokio::test]
async fn raw_bytes_are_refused() {
    let (_deployment, countersign, _) = alice();
    let headers = vec![HeaderValue {
        key: "authorization".to_owned(),
        raw_value: vec![b'J', b'W', b'T', b' ', 0xff, 0xfe],
        ..HeaderValue::default()
    }];
    let request =
        http_attributes(HttpRequest { header_map: Some(HeaderMap { headers }), ..bare_request() });

    assert_eq!(code(&countersign.ext_authz().check(request).await), "malformed_credentials");
}

/// Only Envoy should connect here; any other client gets a denial, not an error and not an empty
/// message.
#[tokio::test]
async fn an_empty_question_is_denied() {
    let (_deployment, countersign, _) = alice();
    let mut ext_authz = countersign.ext_authz();
    for request in [
        CheckRequest::default(),
        CheckRequest { attributes: Some(AttributeContext::default()) },
        http_attributes(HttpRequest::default()),
    ] {
        let answer = ext_authz.check(request).await;
        assert!(!answer.bytes.is_empty());
        assert_eq!(code(&answer), "missing_credentials");
    }
}

/// Envoy may check one request twice, and marks both checks with the same id.
#[tokio::test]
async fn one_stream_is_one_attempt() {
    let (_deployment, countersign, key) = alice();
    let token = Claims::of("alice").authorization(&key);
    let mut ext_authz = countersign.ext_authz();
    let first = check_request(&token);
    let elsewhere = |change: fn(&mut HttpRequest)| {
        let mut request = first.clone();
        change(
            request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap(),
        );
        request
    };

    ext_authz.check(first.clone()).await.ok();
    ext_authz.check(first.clone()).await.ok();

    for (case, request) in [
        ("another stream", check_request(&token)),
        ("no stream", elsewhere(|http| http.id.clear())),
        ("another method", elsewhere(|http| http.method = "POST".to_owned())),
        ("another path", elsewhere(|http| http.path = "/elsewhere".to_owned())),
        ("another host", elsewhere(|http| http.host = "elsewhere.test".to_owned())),
    ] {
        assert_eq!(code(&ext_authz.check(request).await), "replayed", "{case}");
    }
}

/// Without an id of Envoy's, two checks are two attempts. A trace id may come from the client.
#[tokio::test]
async fn an_id_that_is_no_number_of_envoys_is_none() {
    let (_deployment, countersign, key) = alice();
    let mut ext_authz = countersign.ext_authz();
    for id in [
        "",
        "4bf92f3577b34da6a3ce929d0e0e4736",
        "00000000000000000000000000000007",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "-7",
        "\u{664}",
    ] {
        let mut request = check_request(&Claims::of("alice").authorization(&key));
        id.clone_into(
            &mut request
                .attributes
                .as_mut()
                .unwrap()
                .request
                .as_mut()
                .unwrap()
                .http
                .as_mut()
                .unwrap()
                .id,
        );

        ext_authz.check(request.clone()).await.ok();
        assert_eq!(code(&ext_authz.check(request).await), "replayed", "{id}");
    }
}

#[tokio::test]
async fn health_is_told() {
    let (_deployment, countersign, _) = alice();
    let endpoint = Endpoint::from_shared(format!("http://{}", countersign.grpc)).unwrap();
    let mut client = HealthClient::new(endpoint.connect_lazy());

    for service in ["", "envoy.service.auth.v3.Authorization"] {
        let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
        assert_eq!(answer.unwrap().into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = client.check(HealthCheckRequest { service: "no.such.Service".to_owned() }).await;
    assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    let (_deployment, countersign, _) = alice();
    let endpoint = Endpoint::from_shared(format!("http://{}", countersign.grpc)).unwrap();
    let mut client = ServerReflectionClient::new(endpoint.connect_lazy());

    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        client.server_reflection_info(tokio_stream::once(question)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;

    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let services = names(list.service.iter().map(|service| service.name.as_str()));
    for service in ["envoy.service.auth.v3.Authorization", "grpc.health.v1.Health"] {
        assert!(services.contains(service), "{services:?}");
    }
}

fn alice() -> (Deployment, Countersign, Key) {
    let (deployment, key) = (Deployment::new(), Key::ed25519());
    deployment.enrol("alice", &key);
    let countersign = deployment.serve();
    (deployment, countersign, key)
}

/// The code of a denial.
fn code(answer: &CheckAnswer) -> String {
    let headers = answer.denied().headers.iter().filter_map(|option| option.header.as_ref());
    let mut errors = headers.filter(|header| header.key.eq_ignore_ascii_case("x-auth-error"));
    errors.next().expect("a denial without a code").value.clone()
}

fn text(kind: Option<&Kind>) -> Option<&str> {
    match kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}
