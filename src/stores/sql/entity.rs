//! Entities of the tables that the migrations create.

pub(super) mod api_keys;
pub(super) mod audit_events;
pub(super) mod jwks_trusts;
pub(super) mod principals;
pub(super) mod public_keys;
pub(super) mod registry_changes;
pub(super) mod registry_feed;
pub(super) mod token_grants;
