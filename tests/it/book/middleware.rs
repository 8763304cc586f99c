//! Compares what the middleware of `asymmetric_jwt_auth` accepts to what Countersign accepts: both
//! get the same headers, and the page about migrating has a row for each difference.
//!
//! Sends only what the middleware handles.

mod cases;

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use serde_json::json;

use self::cases::{Case, World, cases};
use super::hold;
use crate::harness::{Countersign, DjangoSite, Door, Question};

const PAGE: &str = "migrate/asymmetric-jwt-auth.md";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_middleware_side_by_side() {
    let world = World::new();
    let (theirs, ours) = (theirs(&world), world.deployment.serve());
    let cases = cases();
    let (mut differences, mut faults) = (Differences::default(), Vec::new());
    for case in &cases {
        let (there, here) = answers(case, &world, &theirs, &ours).await;
        match (there == here, case.why) {
            (true, None) => {}
            (false, Some(why)) => differences.add(&case.what, [there, here], why),
            (true, Some(_)) => {
                faults.push(format!("{}: no difference any more: {there:?}", case.what));
            }
            (false, None) => faults.push(format!(
                "{}: there {there:?}, here {here:?}, and nobody says why",
                case.what
            )),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(cases.len() >= 102, "{}", cases.len());
    hold(PAGE, "the middleware", &differences.table(cases.len()));
}

/// Whether each accepts the last request of a case.
async fn answers(
    case: &Case,
    world: &World,
    theirs: &DjangoSite,
    ours: &Countersign,
) -> (Answer, Answer) {
    let mut answers = (Answer::Refused, Answer::Refused);
    for authorizations in (case.sent)(world) {
        let username = theirs.recognises_in(&authorizations).await;
        answers.0 = if username.is_empty() { Answer::Refused } else { Answer::Taken(username) };
        let question = Question { authorization: authorizations, ..Question::bare() };
        let verdict = Door::Http.ask(ours, &question).await;
        answers.1 = if verdict.allowed() {
            let username = percent_decode_str(verdict.header("x-auth-username").unwrap())
                .decode_utf8()
                .unwrap();
            Answer::Taken(username.into_owned())
        } else {
            assert_eq!(verdict.status, 401, "{}: {verdict:?}", case.what);
            Answer::Refused
        };
    }
    answers
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The name of the user, if it is accepted.
    Taken(String),
    Refused,
}

impl Answer {
    const fn text(&self) -> &'static str {
        match self {
            Self::Taken(_) => "taken",
            Self::Refused => "refused",
        }
    }
}

fn theirs(world: &World) -> DjangoSite {
    let users: Vec<_> = world
        .users
        .iter()
        .map(|user| json!({"username": user.name, "is_active": user.is_active, "keys": user.keys_there}))
        .collect();
    DjangoSite::with_users(&json!(users))
}

/// One row for all cases with the same answers for the same reason.
#[derive(Default)]
struct Differences {
    rows: Vec<(Vec<String>, [&'static str; 2], &'static str)>,
    count: usize,
}

impl Differences {
    fn add(&mut self, what: &str, answers: [Answer; 2], why: &'static str) {
        self.count += 1;
        let answers = answers.map(|answer| answer.text());
        if let Some((whats, ..)) =
            self.rows.iter_mut().find(|(_, known, reason)| (known, *reason) == (&answers, why))
        {
            whats.push(what.to_owned());
        } else {
            self.rows.push((vec![what.to_owned()], answers, why));
        }
    }

    fn table(&self, asked: usize) -> String {
        let mut text = format!(
            "A test puts {asked} tokens and headers to the middleware of version 1.3.0 and to Countersign. {} are answered \
             alike. These {} are not:\n\n| what | there | here | why |\n| --- | --- | --- | --- |\n",
            asked - self.count,
            self.count
        );
        // Refusals here matter to people who migrate.
        let (refused, taken): (Vec<_>, Vec<_>) =
            self.rows.iter().partition(|(_, [_, here], _)| *here == "refused");
        for (whats, [there, here], why) in refused.into_iter().chain(taken) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} | {there} | {here} | {why} |", whats.join("; "));
        }
        text
    }
}
