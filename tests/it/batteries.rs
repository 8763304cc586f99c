//! One battery for every adapter of a port: the nonce stores, and the registry on each database.
//! Only these tests and `book` call into the library: they test the promises of a port.

mod changes;
mod feed;
mod grants;
mod imports;
mod nonces;
mod registry;
mod tokens;

use std::time::SystemTime;

use countersign::domain::time::UnixMillis;

fn now() -> UnixMillis {
    SystemTime::now().into()
}
