use proptest::prelude::*;

use super::*;

const WITH_RANGE: RequestFacts = RequestFacts { range: true, ..RequestFacts::GET };
const IF_NONE_MATCH: RequestFacts = RequestFacts { if_none_match: true, ..RequestFacts::GET };
const IF_MODIFIED: RequestFacts = RequestFacts { if_modified_since: true, ..RequestFacts::GET };

/// App's status to browser's, through a bridge and a shell of ours.
fn through(status: u16, request: RequestFacts) -> u16 {
    let exact = exact_status(status, false);
    to_wire(status).map_or(502, |wire| from_wire(wire, exact.as_deref(), request))
}

/// The same where the other end ignores our header.
fn through_theirs(status: u16, request: RequestFacts) -> u16 {
    to_wire(status).map_or(502, |wire| from_wire(wire, None, request))
}

#[test]
fn names_are_compared_without_case_and_star_only_ends_a_name() {
    assert!(request_header_allowed("X-Requested-With"));
    assert!(request_header_allowed("X-SANDSTORM-APP-Color"));
    assert!(!request_header_allowed("x-sandstorm-app-"), "a prefix is not a name");
    assert!(!request_header_allowed("x-sandstorm-ap"));
    assert!(!request_header_allowed("x-oc-mtime2"));
    assert!(!request_header_allowed("é-sandstorm-app-x"));
    assert!(response_header_allowed("Content-Range"));
    assert!(!response_header_allowed("range"));
}

#[test]
fn what_an_app_must_not_see() {
    for name in [
        "authorization",
        "referer",
        "origin",
        "dnt",
        "sec-fetch-site",
        "x-forwarded-for",
        "x-real-ip",
        "via",
        "x-sandstorm-user-id",
        "x-sandstorm-permissions",
        "x-sandstorm-username",
        "proxy-authorization",
        "expect",
        "forwarded",
    ] {
        assert!(!request_header_allowed(name) && !request_header_has_field(name), "{name}");
    }
}

#[test]
fn what_an_app_must_not_say() {
    for (name, _) in APP_HEADERS_REFUSED {
        assert!(!response_header_allowed(name), "{name}");
        assert!(!head_response_header_allowed(name), "{name}");
        assert!(!response_header_has_field(name), "{name}");
    }
    assert!(!response_header_allowed(EXACT_STATUS));
    assert!(!response_header_allowed("content-length"));
    assert!(head_response_header_allowed("Content-Length"));
}

#[test]
fn the_tables_are_in_lower_case_valid_and_disjoint() {
    let patterns = REQUEST_HEADERS.iter().chain(RESPONSE_HEADERS).map(|h| h.pattern);
    for pattern in patterns.chain(HOP_BY_HOP.iter().copied()) {
        assert_eq!(pattern, pattern.to_ascii_lowercase());
        assert!(header_name_valid(pattern.trim_end_matches('*')), "{pattern}");
    }
    for name in HOP_BY_HOP {
        assert!(!request_header_allowed(name) && !response_header_allowed(name), "{name}");
        assert!(!request_header_has_field(name) && !response_header_has_field(name), "{name}");
        assert!(is_hop_by_hop(&name.to_ascii_uppercase()));
    }
    for name in REQUEST_FIELDS {
        assert!(!request_header_allowed(name), "{name} would be sent twice");
    }
    for name in RESPONSE_FIELDS {
        assert!(!response_header_allowed(name), "{name} would be sent twice");
    }
}

/// A bridge of today's Sandstorm hands everything below `x-sandstorm-app-` to the app.
#[test]
fn ours_never_hide_below_the_apps_prefix() {
    for header in REQUEST_HEADERS.iter().chain(RESPONSE_HEADERS) {
        assert!(header.since == Since::Public || !header.pattern.starts_with("x-sandstorm-app"));
    }
}

/// Every app status, and what a browser gets when both ends are ours.
#[test]
fn statuses_survive_between_our_ends() {
    let full = RequestFacts { range: true, if_none_match: true, ..RequestFacts::GET };
    for status in 0..=999 {
        let expected = match status {
            305 | 306 => 502,
            // Never handed on: they speak of proxies, connections and protocols.
            407 | 421 | 426 => 400,
            200..=599 => status,
            _ => 502,
        };
        assert_eq!(through(status, full), expected, "{status}");
    }
}

/// The table of the public interface: what an end without our header makes of each status.
#[test]
fn statuses_with_other_ends() {
    let table: &[(&[u16], RequestFacts, u16)] = &[
        (&[200, 203, 208, 226], RequestFacts::GET, 200),
        (&[201], RequestFacts::GET, 201),
        (&[202], RequestFacts::GET, 202),
        (&[204], RequestFacts::GET, 204),
        (&[205], RequestFacts::GET, 205),
        (&[206], WITH_RANGE, 206),
        (&[206], RequestFacts::GET, 200),
        (&[207], RequestFacts::GET, 207),
        (&[301], RequestFacts::GET, 301),
        (&[302, 303], RequestFacts::GET, 303),
        (&[307], RequestFacts::GET, 307),
        (&[308], RequestFacts::GET, 308),
        (&[304, 412], IF_NONE_MATCH, 304),
        (&[304, 412], RequestFacts::GET, 412),
        (&[304, 412], RequestFacts { get_or_head: false, ..IF_NONE_MATCH }, 412),
        (&[400, 401, 402, 407, 408, 416, 423, 426, 429, 451, 499], RequestFacts::GET, 400),
        (&[500, 501, 502, 503, 504, 599], RequestFacts::GET, 500),
        (&[0, 100, 101, 103, 199, 305, 306, 600, 999], RequestFacts::GET, 502),
    ];
    for (statuses, request, expected) in table {
        for status in *statuses {
            assert_eq!(through_theirs(*status, *request), *expected, "{status}");
        }
    }
    for same in [403, 404, 405, 406, 409, 410, 413, 414, 415, 418, 422] {
        assert_eq!(through_theirs(same, RequestFacts::GET), same);
    }
}

#[test]
fn range_answers_need_a_range() {
    assert_eq!(through(206, RequestFacts::GET), 200);
    assert_eq!(through(416, RequestFacts::GET), 400);
    assert_eq!(through(206, WITH_RANGE), 206);
    assert_eq!(through(416, WITH_RANGE), 416);
}

#[test]
fn not_modified_needs_a_reason() {
    assert_eq!(through(304, IF_NONE_MATCH), 304);
    assert_eq!(through(304, IF_MODIFIED), 304, "If-Modified-Since alone is enough");
    assert_eq!(through(304, RequestFacts::GET), 412);
    assert_eq!(through(412, IF_NONE_MATCH), 412, "the app's own word counts");
    let put = RequestFacts { get_or_head: false, if_modified_since: true, ..IF_NONE_MATCH };
    assert_eq!(through(304, put), 412);
}

#[test]
fn a_challenge_costs_the_401() {
    assert_eq!(exact_status(401, true), None);
    assert_eq!(exact_status(401, false).as_deref(), Some("401"));
    assert_eq!(through(401, RequestFacts::GET), 401);
}

#[test]
fn no_header_where_the_interface_says_it_all() {
    for status in [200, 201, 202, 204, 205, 206, 207, 301, 303, 307, 308, 400, 403, 404, 422, 500] {
        assert_eq!(exact_status(status, false), None, "{status}");
    }
    for status in [203, 302, 304, 412, 416, 429, 451, 501, 503] {
        assert_eq!(exact_status(status, false), Some(status.to_string()), "{status}");
    }
}

/// The shell does not believe a bridge: an exact status cannot leave its class.
#[test]
fn a_lying_bridge_stays_inside_its_class() {
    let ok = WireStatus::Content(SuccessCode::Ok);
    let bad = WireStatus::ClientError(ClientErrorCode::BadRequest);
    for lie in ["100", "101", "199", "204", "205", "301", "404", "500"] {
        assert_eq!(from_wire(ok, Some(lie), RequestFacts::GET), 200, "{lie}");
    }
    for lie in ["200", "407", "421", "426", "503"] {
        assert_eq!(from_wire(bad, Some(lie), RequestFacts::GET), 400, "{lie}");
    }
    for malformed in ["", "20", "2030", "+203", " 203", "203 ", "2o3", "٢٠٣", "0203", "-03"] {
        assert_eq!(from_wire(ok, Some(malformed), RequestFacts::GET), 200, "{malformed:?}");
    }
}

#[test]
fn lines_cannot_be_split() {
    assert!(header_value_valid(b"a b\tc \xff"));
    for bad in [b"a\rb", b"a\nb", b"a\0b"] {
        assert!(!header_value_valid(bad));
    }
    for bad in ["", "a b", "a:b", "a\r\nb", "é", "a\0"] {
        assert!(!header_name_valid(bad), "{bad:?}");
    }
}

fn any_wire() -> impl Strategy<Value = WireStatus> {
    (200u16..600).prop_filter_map("no answer", to_wire)
}

proptest! {
    /// Whatever the two ends say, the browser gets a final status of the class that the interface
    /// states, or the 304/412 pair, and only statuses that fit the request.
    #[test]
    fn from_wire_is_always_a_fitting_answer(
        wire in any_wire(),
        exact in proptest::option::of("[0-9]{3}|\\PC{0,5}"),
        facts: [bool; 4],
    ) {
        let [get_or_head, range, if_none_match, if_modified_since] = facts;
        let request = RequestFacts { get_or_head, range, if_none_match, if_modified_since };
        let status = from_wire(wire, exact.as_deref(), request);
        let class = match wire {
            WireStatus::Content(_) | WireStatus::NoContent { .. } => 2,
            WireStatus::Redirect { .. } => 3,
            WireStatus::ClientError(_) => 4,
            WireStatus::ServerError => 5,
            WireStatus::PreconditionFailed => if status == 304 { 3 } else { 4 },
        };
        prop_assert_eq!(status / 100, class);
        prop_assert!(![407, 421, 426].contains(&status));
        prop_assert!(range || ![206, 416].contains(&status));
        prop_assert!(status != 304 || get_or_head && (if_none_match || if_modified_since));
        // A kind without a body never claims one, and the other way round.
        let bodiless = matches!(status, 204 | 205);
        prop_assert_eq!(bodiless, matches!(wire, WireStatus::NoContent { .. }));
    }

    #[test]
    fn no_name_is_both_allowed_and_refused(name in "[a-zA-Z*-]{0,40}") {
        let allowed = request_header_allowed(&name) || response_header_allowed(&name);
        prop_assert!(!(allowed && is_hop_by_hop(&name)));
    }
}
