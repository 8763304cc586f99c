//! What the fuzz targets see of this door.

use envoy_types::ext_authz::v3::pb::CheckRequest;
use prost::Message;

use super::{generated::VerifyRequest, request::auth_request};
use crate::{domain::auth_request::AuthRequest, doors::response::ResponseConfig};

/// Shows `look` what Envoy asks with these bytes; `None` if they are no `CheckRequest`.
pub fn check_request<T>(
    bytes: &[u8],
    responses: &ResponseConfig,
    look: impl FnOnce(&AuthRequest<'_>) -> T,
) -> Option<T> {
    let request = CheckRequest::decode(bytes).ok()?;
    Some(look(&auth_request(&request, &tonic::metadata::MetadataMap::new(), responses)))
}

/// Shows `look` what a plugin asks with these bytes; `None` if they are no `VerifyRequest`.
pub fn verify_request<T>(bytes: &[u8], look: impl FnOnce(&AuthRequest<'_>) -> T) -> Option<T> {
    VerifyRequest::decode(bytes).ok().map(|request| look(&AuthRequest::from(&request)))
}
