//! Lists, page by page. A page starts after the last id of the page before, so records added or
//! removed in the meantime neither repeat nor hide others.

use actix_web::HttpRequest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

const LIMIT_DEFAULT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// The list that a cursor belongs to: cursors of other lists are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum List {
    Principals = b'p',
    Keys = b'k',
    Trusts = b't',
    Audit = b'a',
    ApiKeys = b'c',
    Tokens = b'g',
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The items of this page, in the order of the list.
    items: Vec<T>,
    /// The cursor of the next page; null on the last page.
    #[schema(required = true, pattern = "^[A-Za-z0-9_-]{12}$")]
    next_cursor: Option<String>,
}

/// The page that is requested.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// Largest number of items on the page.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    pub(super) limit: u64,
    /// `next_cursor` of the page before.
    #[param(pattern = "^[A-Za-z0-9_-]{12}$", nullable = false, value_type = Option<String>)]
    pub(super) cursor: Option<i64>,
}

impl PageQuery {
    /// Reads `?limit=&cursor=` for `list`; other parameters are refused.
    pub(super) fn of(request: &HttpRequest, list: List) -> Result<Self, Problem> {
        let [limit, cursor] = parameters(request, ["limit", "cursor"])?;
        Self::read(limit.as_deref(), cursor.as_deref(), list)
    }

    pub(super) fn read(
        limit: Option<&str>,
        cursor: Option<&str>,
        list: List,
    ) -> Result<Self, Problem> {
        let limit = match limit {
            None => LIMIT_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| {
                    (1..=LIMIT_MAX).contains(limit)
                        && text.bytes().all(|byte| byte.is_ascii_digit())
                })
                .ok_or_else(|| {
                    Problem::bad_member(
                        "limit",
                        format!("accepted is a whole number from 1 to {LIMIT_MAX}"),
                    )
                })?,
        };
        let bad_cursor = || {
            Problem::bad_member("cursor", "accepted is `next_cursor` of the page before, unchanged")
        };
        let cursor = cursor.map(|text| decode(list, text).ok_or_else(bad_cursor)).transpose()?;
        Ok(Self { limit, cursor })
    }

    /// How many rows to query: one more than the page shows, to learn whether there is another
    /// page.
    pub(super) const fn rows(&self) -> u64 {
        self.limit + 1
    }

    /// Makes the page from up to [`PageQuery::rows`] rows.
    pub(super) fn page<R, T: From<R>>(
        &self,
        list: List,
        mut rows: Vec<R>,
        id: impl Fn(&R) -> i64,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_next = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| has_next).map(|last| encode(list, id(last)));
        Page { items: rows.into_iter().map(T::from).collect(), next_cursor }
    }
}

/// The values of the query parameters `names`. Unknown and repeated parameters are refused:
/// otherwise a misspelt one would be ignored silently.
pub(super) fn parameters<const N: usize>(
    request: &HttpRequest,
    names: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
        let Some(index) = names.iter().position(|known| *known == name) else {
            return Err(Problem::bad_member(
                name,
                format!("unknown parameter; accepted are {}", names.join(", ")),
            ));
        };
        if values[index].replace(value.into_owned()).is_some() {
            return Err(Problem::bad_member(name, "given twice; accepted is one value"));
        }
    }
    Ok(values)
}

fn encode(list: List, id: i64) -> String {
    let mut bytes = [list as u8; 9];
    bytes[1..].copy_from_slice(&id.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(list: List, cursor: &str) -> Option<i64> {
    let bytes: [u8; 9] = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?.try_into().ok()?;
    let [kind, id @ ..] = bytes;
    let id = i64::from_be_bytes(id);
    (kind == list as u8 && id > 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cursors_lead_back(id in 1..=i64::MAX) {
            let cursor = encode(List::Keys, id);
            prop_assert_eq!(cursor.len(), 12);
            prop_assert_eq!(decode(List::Keys, &cursor), Some(id));
            prop_assert_eq!(decode(List::Trusts, &cursor), None);
        }

        #[test]
        fn other_texts_are_no_cursors(text in ".{0,16}") {
            if let Some(id) = decode(List::Audit, &text) {
                prop_assert_eq!(encode(List::Audit, id), text);
            }
        }

        #[test]
        fn pages_end_where_rows_end(count in 0_u64..6, limit in 1_u64..6) {
            let query = PageQuery { limit, cursor: None };
            let rows: Vec<i64> = (1..=10).take(usize::try_from(count.min(query.rows())).unwrap()).collect();
            let page: Page<i64> = query.page(List::Audit, rows, |id| *id);
            prop_assert_eq!(page.items.len() as u64, count.min(limit));
            prop_assert_eq!(page.next_cursor.is_some(), count > limit);
        }
    }

    #[test]
    fn limits_are_whole_numbers_in_range() {
        let limit =
            |text| PageQuery::read(Some(text), None, List::Keys).ok().map(|query| query.limit);
        assert_eq!((limit("1"), limit("1000")), (Some(1), Some(1000)));
        for bad in ["", "0", "1001", "-1", "+1", "1.0", "ten", "99999999999999999999"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }
}
