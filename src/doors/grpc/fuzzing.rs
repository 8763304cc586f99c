//! What the fuzz targets see of this door.

use envoy_types::ext_authz::v3::pb::CheckRequest;
use prost::Message;

use super::{generated::VerifyRequest, request::presented};
use crate::{domain::presented::Presented, doors::answer::Language};

/// Shows `look` what Envoy asks with these bytes; `None` if they are no `CheckRequest`.
pub fn check_request<T>(bytes: &[u8], language: &Language, look: impl FnOnce(&Presented<'_>) -> T) -> Option<T> {
    let request = CheckRequest::decode(bytes).ok()?;
    Some(look(&presented(&request, &tonic::metadata::MetadataMap::new(), language)))
}

/// Shows `look` what a plugin asks with these bytes; `None` if they are no `VerifyRequest`.
pub fn verify_request<T>(bytes: &[u8], look: impl FnOnce(&Presented<'_>) -> T) -> Option<T> {
    VerifyRequest::decode(bytes).ok().map(|request| look(&Presented::from(&request)))
}
