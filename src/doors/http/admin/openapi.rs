//! The description of this API (`OpenAPI` 3.1). Responses that all operations of a kind have in
//! common are added here, once.

use actix_web::{HttpResponse, web};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, Header, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Server,
        Type,
        path::{Operation, ParameterIn, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use super::{
    api_keys, audit, explain, keys, log,
    path::Mount,
    principals,
    problem::{CHALLENGE, Problem},
    tokens, trusts,
};
use crate::doors::response::{PROBLEM_JSON, RETRY_AFTER_SECONDS};

const SECURITY_SCHEME: &str = "admin_token";
/// Operations whose body is optional, since all of its members are.
const WITH_OPTIONAL_BODY: [&str; 2] = ["issue_api_key", "issue_token"];
/// Operations that do not use the registry, so they cannot fail because it is unavailable.
const WITHOUT_REGISTRY: [&str; 4] = ["explain", "show_log", "change_log", "show_openapi"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Countersign admin API",
        description = "Principals, their keys and the key sets that they trust; API keys, and tokens of our own; who changed what; \
            and why a token passes or not. \
            Every change is in force on every replica within a second. \
            `PATCH` takes a merge patch (RFC 7396); `If-Match` makes a change depend on the state that was looked at. \
            Problems are told as RFC 9457 has it."
    ),
    paths(
        principals::list,
        principals::create,
        principals::show,
        principals::change,
        principals::remove,
        keys::list_of_principal,
        keys::create,
        keys::list,
        keys::show,
        keys::change,
        keys::revoke,
        trusts::list_of_principal,
        trusts::create,
        trusts::list,
        trusts::show,
        trusts::remove,
        trusts::refresh,
        api_keys::list_of_principal,
        api_keys::create,
        api_keys::list,
        api_keys::show,
        api_keys::revoke,
        tokens::list_of_principal,
        tokens::create,
        tokens::list,
        tokens::show,
        tokens::revoke,
        audit::list,
        explain::explain,
        log::show,
        log::change,
        show,
    ),
    components(schemas(Problem)),
    security(("admin_token" = [])),
    modifiers(&CommonAnswers)
)]
struct AdminApi;

/// Show this description.
#[utoipa::path(get, path = "/admin/v1/openapi.json", operation_id = "show_openapi", tag = "openapi",
    responses((status = 200, description = "This description.", body = Object)))]
pub(super) async fn show(mount: web::Data<Mount>) -> HttpResponse {
    let mut api = AdminApi::openapi();
    let base = if mount.prefix().is_empty() { "/" } else { mount.prefix() };
    api.servers = Some(vec![Server::new(base)]);
    HttpResponse::Ok().json(api)
}

/// Adds the problems that are common to operations, depending on what they take.
struct CommonAnswers;

impl Modify for CommonAnswers {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The value of `admin.token`."))
            .build();
        api.components
            .get_or_insert_default()
            .add_security_scheme(SECURITY_SCHEME, SecurityScheme::Http(bearer));
        for operation in api.paths.paths.values_mut().flat_map(operations) {
            add_common_answers(operation);
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

fn add_common_answers(operation: &mut Operation) {
    let is_there = |place: ParameterIn, name: &str| {
        operation.parameters.iter().flatten().any(|parameter| {
            parameter.parameter_in == place && (name.is_empty() || parameter.name == name)
        })
    };
    let has_path = is_there(ParameterIn::Path, "");
    let has_arguments = is_there(ParameterIn::Query, "") || is_there(ParameterIn::Header, "");
    let has_if_match = is_there(ParameterIn::Header, "If-Match");
    let has_body = operation.request_body.is_some();
    let is_one_of =
        |ids: &[&str]| operation.operation_id.as_deref().is_some_and(|id| ids.contains(&id));
    let asks_registry = !is_one_of(&WITHOUT_REGISTRY);
    let has_optional_body = is_one_of(&WITH_OPTIONAL_BODY);
    if let Some(body) = operation.request_body.as_mut().filter(|_| has_optional_body) {
        body.required = Some(Required::False);
    }

    let mut add = |applies: bool, status: &str, response: Response| {
        if applies {
            operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
        }
    };
    add(
        has_body || has_arguments,
        "400",
        problem("Something about the request is malformed; `member` names it.").build(),
    );
    add(
        true,
        "401",
        problem("The admin token is missing or wrong.")
            .header("WWW-Authenticate", constant(CHALLENGE))
            .build(),
    );
    add(true, "403", problem("A web page of another host had a browser send this.").build());
    add(has_path, "404", problem("There is no such principal, key, trust or token.").build());
    add(has_if_match, "412", problem("It is not in a state that `If-Match` names.").build());
    add(has_body, "413", problem("The body is larger than 1 MiB.").build());
    add(has_body, "415", problem("The body is of another type.").build());
    add(
        true,
        "421",
        problem("`Host` is no address, and not listed in `admin.allowed_hosts`.").build(),
    );
    let seconds =
        Header::new(ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build());
    add(
        true,
        "429",
        problem("Wrong admin tokens were presented too often.")
            .header("Retry-After", seconds)
            .build(),
    );
    let retry_after = constant(&RETRY_AFTER_SECONDS.to_string());
    add(
        asks_registry,
        "503",
        problem("The registry is out of reach.").header("Retry-After", retry_after).build(),
    );
}

fn problem(description: &str) -> ResponseBuilder {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new().description(description).content(PROBLEM_JSON, content)
}

/// A header that always has this value.
fn constant(value: &str) -> Header {
    Header::new(ObjectBuilder::new().schema_type(Type::String).enum_values(Some([value])).build())
}
