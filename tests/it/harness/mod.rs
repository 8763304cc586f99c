//! Starts real servers, signs tokens, sends requests, and cleans up.
//!
//! A test reads top-down: a [`Deployment`] (settings, a database, principals with keys), one or more [`Countersign`]
//! processes serving it, perhaps a [`Gateway`] and an [`Echo`] behind it, and then requests.

mod admin;
mod authority;
mod breaker;
pub mod chart;
mod collector;
mod countersign;
mod database;
mod deployment;
mod door;
mod echo;
mod example_client;
mod ext_authz;
mod gateway;
pub mod http;
mod jwks;
mod jwthenticator;
mod keys;
mod legacy;
mod load;
mod manifests;
mod nonces;
mod peers;
mod ports;
mod process;
mod scripted;
mod sluice;
mod stand_in;
mod terminal;
mod token_api;
mod tokens;
mod tools;
pub mod verification;
mod wait;

pub use admin::{ADMIN_TOKEN, Admin, hold_to_promises, hold_to_promises_in};
pub use authority::Authority;
pub use breaker::Breaker;
pub use collector::{CollectedSpan, Collector};
pub use countersign::{Countersign, decision_request};
pub use database::{Database, execute};
pub use deployment::{Deployment, LISTENERS, Ran, variable};
pub use door::{Door, Question, Verdict};
pub use echo::{Echo, Seen};
pub use example_client::ExampleClient;
pub use ext_authz::{CheckAnswer, ExtAuthz, bare_request, check_request, http_attributes};
pub use gateway::{Gateway, RunningGateway};
pub use jwks::{Behaviour, JwksServer, Signer, member};
pub use jwthenticator::Jwthenticator;
pub use keys::Key;
pub use legacy::LegacyDatabase;
pub use load::{Client, Load, Sample};
pub use manifests::{Manifests, example_files, texts, unnoticed};
pub use nonces::{Redis, RedisCluster, RedisSentinel};
pub use peers::{AsymmetricJwtAuth, DjangoSite, PyJwt};
pub use ports::{established_to, free_port};
pub use process::{Process, Signal};
pub use scripted::{Reply, Scripted};
pub use sluice::Sluice;
pub use stand_in::StandIn;
pub use token_api::{ApiKey, Pair, TokenApi, claims_in, members};
pub use tokens::{Claims, now};
pub use tools::{peer, program, repository};
pub use verification::Verification;
pub use wait::{eventually, eventually_async};
