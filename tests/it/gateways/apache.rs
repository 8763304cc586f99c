//! Tests for Apache httpd only.

use crate::gateways::every::{Scene, a_lost_answer_is_one_answer};
use crate::gateways::shared::{self, OFFICE, SHOP, block_of, example};
use crate::harness::http::Request;
use crate::harness::{Gateway, Key};

#[tokio::test]
async fn a_script_that_fails_lets_nobody_pass() {
    let broken = (
        "local status, headers, body = ask(r)",
        "error('broken')\n    local status, headers, body = ask(r)",
    );
    let scene = Scene::edited(Gateway::Apache, Key::ed25519(), &[broken]).await;

    assert_eq!(scene.send(Request::get("/")).await.status, 500);
}

/// A section may omit the script: `Require` still demands the note that the script would have set.
#[tokio::test]
async fn a_section_without_the_script_lets_nobody_pass() {
    let without = ("SetEnvIfExpr true REQUIRED_SCOPE=admin", "LuaInherit none");
    let scene = Scene::edited(Gateway::Apache, Key::ed25519(), &[without]).await;

    assert_eq!(scene.send(Request::get("/admin/users")).await.status, 403);
    assert_eq!(scene.send(Request::get("/")).await.status, 200);
}

#[tokio::test]
async fn a_lost_answer_is_not_asked_for_again() {
    let asks = |address| format!("\"{address}\"");
    a_lost_answer_is_one_answer(Gateway::Apache, ("\"127.0.0.1:8080\"", &asks), &[]).await;
}

/// To httpd this is a second request, for which it asks again, and a token passes once. An answer
/// made by the script would become an empty 200 there.
#[tokio::test]
async fn an_internal_redirect_is_refused() {
    let redirecting = (
        "ProxyPass        / ",
        "LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\n\
         DocumentRoot /usr/share\n\
         ProxyPass /docs/ !\n\
         <Location /docs/>\n\
         FallbackResource /orders\n\
         </Location>\n\
         ProxyPass        / ",
    );
    let scene = Scene::edited(Gateway::Apache, Key::ed25519(), &[redirecting]).await;

    assert_eq!(scene.send(Request::get("/docs/x")).await.status, 401);
    assert_eq!(scene.send(Request::get("/orders")).await.status, 200);
}

/// What users put behind the example, as README.md says.
#[tokio::test]
async fn two_sites_keep_their_rules() {
    let sites = block_of("apache/README.md", "# Names that no site has.");
    let [shop, office] = [SHOP, OFFICE].map(|site| format!("ServerName {site}\n"));
    assert!(sites.contains(&shop) && sites.contains(&office), "{sites}");
    // The tests' paths start at its address.
    let sites = sites.replace(&shop, &format!("{shop}ServerAlias 127.0.0.1\n"));
    let marked =
        format!("ProxyPreserveHost On\nRequestHeader set X-Server expr=%{{SERVER_NAME}}\n{sites}");
    shared::two_sites_keep_their_rules(Gateway::Apache, &[("ProxyPreserveHost On", &marked)]).await;
}

#[tokio::test]
async fn only_listed_paths_pass_without_the_scope() {
    let config = example("apache/httpd.conf");
    let [start, end] = ["# The key or its principal", "# Open to everybody."]
        .map(|part| config.find(part).expect(part));
    let listed = block_of("apache/README.md", "# Everything that is not listed below.");
    shared::only_listed_paths_pass_without_the_scope(
        Gateway::Apache,
        &[(&config[start..end], &listed)],
    )
    .await;
}

#[tokio::test]
async fn a_page_may_read_its_answers() {
    shared::a_page_may_read_its_answers(Gateway::Apache).await;
}

#[tokio::test]
async fn no_protocol_but_websockets_is_passed_on() {
    shared::no_protocol_but_websockets_is_passed_on(Gateway::Apache).await;
}
