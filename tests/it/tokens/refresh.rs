//! Refresh tokens that are exchanged for the next one, and what happens if one is presented again.

use std::time::Duration;

use serde_json::json;

use crate::harness::http::{Answer, Request};
use crate::harness::{
    Countersign, Database, Deployment, Pair, TokenApi, eventually_async, members,
};

/// Longer than the time in which an exchanged token still returns its successor.
const LATER: Duration = Duration::from_millis(2500);
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_refresh_token_earns_the_next_pair() {
    let (_deployment, countersign, first) = world();
    let api = TokenApi::of(&countersign);

    let answer = api.rotate(&first.refresh).await;

    assert_eq!(
        (answer.status, members(&answer.json())),
        (201, vec!["access_token", "refresh_token"]),
        "{answer:?}"
    );
    let second = Pair::of(&answer);
    assert!(second.access != first.access && second.refresh != first.refresh);
    let form = api.form("/token/refresh", &[("token", &second.refresh)]).await;
    assert_eq!(form.status, 201, "{form:?}");
    for pair in [&first, &second, &Pair::of(&form)] {
        assert_eq!(api.validate(&pair.access).await, 200);
    }
}

/// As Django sends forms with files (multipart); the answer is the same as for JSON.
#[tokio::test]
async fn forms_may_come_in_parts() {
    let (_deployment, countersign, first) = world();
    let api = TokenApi::of(&countersign);
    let parts = |path: &str, token: &str| {
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n{token}\r\n--b--\r\n"
        );
        Request::new("POST", path)
            .header("Content-Type", "multipart/form-data; boundary=b")
            .body(body)
    };
    let answer = api.send(&parts("/token/refresh", &first.refresh)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let second = Pair::of(&answer);
    let bearer = format!("Bearer {}", second.access);
    let told =
        api.send(&parts("/token/introspection", &second.access).authorization(&bearer)).await;
    assert_eq!((told.status, &told.json()["active"]), (200, &json!(true)), "{told:?}");
    let unknown =
        api.send(&parts("/token/introspection", "csr_made_up").authorization(&bearer)).await;
    assert_eq!(unknown.status, 401, "{unknown:?}");
    let cut_off = Request::new("POST", "/token/refresh")
        .header("Content-Type", "multipart/form-data; boundary=b")
        .body("--b\r\n");
    assert_eq!(api.send(&cut_off).await.status, 400);
    assert_eq!(
        api.send(&parts("/token/revoke", &second.refresh).authorization(&bearer)).await.status,
        200
    );
    assert_eq!(api.rotate(&second.refresh).await.status, 401);
}

#[tokio::test]
async fn what_is_no_refresh_token_earns_nothing() {
    let (deployment, countersign, pair) = world();
    let api = TokenApi::of(&countersign);
    for token in ["that_thing", "csr_made_up", &pair.access] {
        let answer = api.rotate(token).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (401, &json!("invalid_token")),
            "{token}: {answer:?}"
        );
    }
    for body in [
        json!({"INVALID": pair.refresh}),
        json!({}),
        json!({"token": ""}),
        json!({"token": null}),
        json!({"token": 1}),
    ] {
        let answer = api.post("/token/refresh", &body).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (400, &json!("invalid_request")),
            "{body}: {answer:?}"
        );
    }
    assert_eq!(api.form("/token/refresh", &[("token", "x"), ("token", "y")]).await.status, 400);
    deployment.done(&["principal", "disable", "alice"]);
    assert_eq!(api.rotate(&pair.refresh).await.status, 401, "an inactive user");
    deployment.done(&["principal", "enable", "alice"]);
    api.rotated(&pair.refresh).await;
}

/// A refresh token that comes late was stolen, or its successor was: the whole family is revoked.
#[tokio::test]
async fn a_stolen_token_ends_its_family() {
    let (deployment, countersign, stolen) = world();
    let api = TokenApi::of(&countersign);
    let other = deployment.tokens("alice");
    let honest = api.rotated(&stolen.refresh).await;
    let latest = api.rotated(&honest.refresh).await;
    tokio::time::sleep(LATER).await;

    let answer = api.rotate(&stolen.refresh).await;

    assert_eq!(answer.status, 401, "{answer:?}");
    for token in [&stolen.refresh, &honest.refresh, &latest.refresh] {
        assert_eq!(api.rotate(token).await.status, 401);
    }
    for token in [&stolen.access, &honest.access, &latest.access] {
        assert_eq!(api.validate(token).await, 401);
        let denial = countersign.decide(&format!("Bearer {token}")).await;
        assert_eq!((denial.status, denial.header("x-auth-error")), (401, Some("invalid_token")));
    }
    assert_eq!(api.validate(&other.access).await, 200, "another login is not concerned");
    api.rotated(&other.refresh).await;
}

/// On each database, and through two replicas: two tabs, or a lost answer, are not theft.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_come_at_once_are_given_the_same() {
    for database in [Database::sqlite(), Database::postgres(), Database::mariadb()] {
        let deployment = Deployment::on(database);
        deployment.done(&["principal", "add", "alice"]);
        let (first, replicas) =
            (deployment.tokens("alice"), [deployment.serve(), deployment.serve()]);
        let asking = (0..16).map(|index| {
            let (api, refresh) = (TokenApi::of(&replicas[index % 2]), first.refresh.clone());
            tokio::spawn(async move { api.rotate(&refresh).await })
        });
        let asking: Vec<_> = asking.collect();
        let mut successors = Vec::new();
        for answer in asking {
            let answer: Answer = answer.await.unwrap();
            assert_eq!(answer.status, 201, "{answer:?}");
            successors.push(Pair::of(&answer).refresh);
        }
        successors.dedup();
        assert_eq!(successors.len(), 1, "{successors:?}");
        TokenApi::of(&replicas[0]).rotated(&successors[0]).await;
    }
}

/// `issuer.multiple_tokens = false`: exactly one grant remains.
#[tokio::test]
async fn a_single_token_is_the_latest() {
    let deployment = Deployment::new().set("issuer.multiple_tokens", "false");
    deployment.done(&["principal", "add", "alice"]);
    let (key, countersign) = (deployment.api_key("alice"), deployment.serve());
    let api = TokenApi::of(&countersign);
    let first = api.login(&key).await;
    let second = api.login(&key).await;
    let third = api.rotated(&second.refresh).await;

    assert_eq!(api.validate(&third.access).await, 200);
    for ended in [&first, &second] {
        // In force some milliseconds after the answer to the request that revoked it.
        let is_over = async || (api.validate(&ended.access).await == 401).then_some(());
        eventually_async("an older grant still passes", Duration::from_secs(1), is_over).await;
    }
    assert_eq!(api.rotate(&first.refresh).await.status, 401);
    let held = deployment.list(&["token", "list", "alice"]);
    assert_eq!(held.iter().filter(|grant| grant["revoked_at"].is_null()).count(), 1, "{held:?}");
}

/// jwthenticator's `/refresh` does not rotate the refresh token; one that was exchanged elsewhere
/// is no longer valid.
#[tokio::test]
async fn an_exchanged_token_is_over_at_refresh_too() {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    let (key, countersign) = (deployment.api_key("alice"), deployment.serve());
    let api = TokenApi::of(&countersign);
    let first = api.login(&key).await;
    let next = api.rotated(&first.refresh).await;
    let stays = |token: String| json!({"refresh_token": token, "identifier": key.identifier});
    assert_eq!(api.post("/refresh", &stays(first.refresh.clone())).await.status, 401);
    assert_eq!(api.post("/refresh", &stays(next.refresh.clone())).await.status, 200);
    tokio::time::sleep(LATER).await;
    assert_eq!(api.post("/refresh", &stays(first.refresh)).await.status, 401);
    assert_eq!(
        api.post("/refresh", &stays(next.refresh)).await.status,
        401,
        "the family has ended"
    );
}

#[tokio::test]
async fn expired_tokens_are_over() {
    let deployment = Deployment::new()
        .set("issuer.access_token_lifetime", "1s")
        .set("issuer.refresh_token_lifetime", "1s");
    deployment.done(&["principal", "add", "alice"]);
    let (pair, countersign) = (deployment.tokens("alice"), deployment.serve());
    let api = TokenApi::of(&countersign);
    eventually_async("it does not expire", PATIENCE, async || {
        (api.validate(&pair.access).await == 401).then_some(())
    })
    .await;
    assert_eq!(api.rotate(&pair.refresh).await.status, 401);
}

/// Alice has tokens.
fn world() -> (Deployment, Countersign, Pair) {
    let deployment = Deployment::new();
    deployment.done(&["principal", "add", "alice"]);
    let (pair, countersign) = (deployment.tokens("alice"), deployment.serve());
    (deployment, countersign, pair)
}
