//! What the fuzz targets see of this door.

use envoy_types::ext_authz::v3::pb::CheckRequest;
use prost::Message;

use super::{generated::VerifyRequest, request::auth_request};
use crate::{domain::auth_request::AuthRequest, doors::response::ResponseConfig};

/// Calls `look` with Envoy's request in `bytes`; `None` if they are not a `CheckRequest`.
pub fn check_request<T>(
    bytes: &[u8],
    responses: &ResponseConfig,
    look: impl FnOnce(&AuthRequest<'_>) -> T,
) -> Option<T> {
    let request = CheckRequest::decode(bytes).ok()?;
    Some(look(&auth_request(&request, &tonic::metadata::MetadataMap::new(), responses)))
}

/// Calls `look` with a plugin's request in `bytes`; `None` if they are not a `VerifyRequest`.
pub fn verify_request<T>(bytes: &[u8], look: impl FnOnce(&AuthRequest<'_>) -> T) -> Option<T> {
    VerifyRequest::decode(bytes).ok().map(|request| look(&AuthRequest::from(&request)))
}
