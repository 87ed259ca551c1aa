//! What AuthZEN requests ask, and what is wrong with those that ask nothing.

use super::*;

fn json(text: &str) -> Json {
    Json::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

fn one(text: &str) -> Result<Question, String> {
    evaluation(&json(text)).map_err(|error| error.to_string())
}

fn several(text: &str) -> Vec<Result<Question, String>> {
    match evaluations(&json(text)) {
        Ok(Evaluations::Several(_, questions)) => {
            questions.into_iter().map(|item| item.map_err(|error| error.to_string())).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn scope(token: &str, scope: &str) -> Question {
    Question {
        token: Some(token.to_owned()),
        client_ip: String::new(),
        operation: Operation::Scope(scope.to_owned()),
        dry_run: false,
    }
}

const WHOLE: &str = r#""action": { "name": "read" }, "resource": { "type": "cards", "id": "7" }"#;

fn with_subject(subject: &str) -> String {
    format!("{{ \"subject\": {subject}, {WHOLE} }}")
}

#[test]
fn subject_presents_its_token_in_one_place() {
    let of = |subject| one(&with_subject(subject)).map(|question| question.token);
    for subject in [
        r#"{ "type": "token", "id": "T" }"#,
        r#"{ "type": "token", "id": "T", "properties": {} }"#,
        r#"{ "type": "token", "id": "T", "properties": { "token": null } }"#,
        r#"{ "type": "token", "properties": { "token": "T" } }"#,
        r#"{ "type": "token", "id": "T", "properties": { "token": "T", "role": 1 } }"#,
        r#"{ "type": "token", "id": "T", "foo": 1, "foo": 2 }"#,
    ] {
        assert_eq!(of(subject), Ok(Some("T".to_owned())), "{subject}");
    }
    let marked = one(&with_subject(r#"{ "type": "token", "id": "secret-token:T" }"#)).unwrap();
    let input = marked.input();
    assert_eq!((input.token, input.presented), (&b"T"[..], &b"secret-token:T"[..]));
    let two = r#"{ "type": "user", "id": "U", "properties": { "token": "T" } }"#;
    assert_eq!(of(two), Ok(None));
    for (subject, error) in [
        (r#""T""#, "subject is no object."),
        (r#"{ "id": "T" }"#, "subject.type is required."),
        (r#"{ "type": 1, "id": "T" }"#, "subject.type is no string."),
        (r#"{ "type": "token" }"#, "subject.id is required."),
        (r#"{ "type": "token", "id": null }"#, "subject.id is required."),
        (r#"{ "type": "token", "id": 7 }"#, "subject.id is no string."),
        (r#"{ "type": "token", "id": "T", "properties": [] }"#, "subject.properties is no object."),
        (
            r#"{ "type": "token", "properties": { "token": true } }"#,
            "subject.properties.token is no string.",
        ),
        (
            r#"{ "type": "token", "id": "T", "id": "T" }"#,
            "subject.“id” is there more than once: send it once.",
        ),
        ("null", "subject is required."),
    ] {
        assert_eq!(of(subject), Err(error.to_owned()), "{subject}");
    }
}

#[test]
fn resource_is_a_route_or_part_of_a_scope() {
    let subject = r#""subject": { "type": "token", "id": "T" }"#;
    let route = format!(
        r#"{{ {subject}, "action": {{ "name": "GET", "properties": {{}} }},
             "resource": {{ "type": "route", "id": "/a?b" }},
             "context": {{ "client_ip": "192.0.2.1", "dry_run": true, "time": 1 }} }}"#
    );
    let expected = Question {
        token: Some("T".to_owned()),
        client_ip: "192.0.2.1".to_owned(),
        operation: Operation::Http { method: "GET".to_owned(), path: "/a?b".to_owned() },
        dry_run: true,
    };
    assert_eq!(one(&route), Ok(expected));
    assert_eq!(one(&format!("{{ {subject}, {WHOLE} }}")), Ok(scope("T", "cards.read")));
    for (rest, error) in [
        (r#""resource": { "type": "a", "id": "b" }"#, "action is required."),
        (r#""action": { "name": "a" }"#, "resource is required."),
        (r#""action": {}, "resource": { "type": "a", "id": "b" }"#, "action.name is required."),
        (
            r#""action": { "name": 123 }, "resource": { "type": "a", "id": "b" }"#,
            "action.name is no string.",
        ),
        (r#""action": { "name": "a" }, "resource": { "id": "b" }"#, "resource.type is required."),
        (r#""action": { "name": "a" }, "resource": { "type": "b" }"#, "resource.id is required."),
        (
            r#""action": { "name": "a" }, "resource": { "type": "a", "id": "b" }, "context": "c""#,
            "context is no object.",
        ),
        (
            r#""action": { "name": "a" }, "resource": { "type": "a", "id": "b" },
               "context": { "dry_run": "true" }"#,
            "context.dry_run is neither true nor false.",
        ),
        (
            r#""action": { "name": "a" }, "resource": { "type": "a", "id": "b" },
               "context": { "client_ip": ["192.0.2.1"] }"#,
            "context.client_ip is no string.",
        ),
        (
            r#""action": { "name": "a" }, "action": { "name": "b" },
               "resource": { "type": "a", "id": "b" }"#,
            "“action” is there more than once: send it once.",
        ),
    ] {
        assert_eq!(one(&format!("{{ {subject}, {rest} }}")), Err(error.to_owned()), "{rest}");
    }
}

#[test]
fn entities_replace_their_defaults_whole() {
    let questions = several(
        r#"{ "subject": { "type": "token", "id": "T" }, "action": { "name": "read" },
             "context": { "dry_run": true, "client_ip": "192.0.2.1" },
             "evaluations": [
               { "resource": { "type": "a", "id": "1" } },
               { "resource": { "type": "b", "id": "1" }, "action": { "name": "write" } },
               { "resource": { "type": "c", "id": "1" }, "context": { "client_ip": "192.0.2.2" } },
               { "resource": { "type": "d", "id": "1" }, "subject": { "id": "U" } },
               {},
               7,
               { "resource": { "type": "e", "id": "1" }, "context": null },
               { "subject": null, "resource": { "type": "f", "id": "1" } } ] }"#,
    );
    let default =
        |name| Question { client_ip: "192.0.2.1".to_owned(), dry_run: true, ..scope("T", name) };
    let other = Question { client_ip: "192.0.2.2".to_owned(), ..scope("T", "c.read") };
    assert_eq!(
        questions,
        [
            Ok(default("a.read")),
            Ok(default("b.write")),
            Ok(other),
            Err("evaluations[3].subject.type is required.".to_owned()),
            Err("evaluations[4].resource is required.".to_owned()),
            Err("evaluations[5] is no object.".to_owned()),
            Err("evaluations[6].context is null: leave it out for the request's own, or send an object.".to_owned()),
            Err("evaluations[7].subject is null: leave it out for the request's own, or send an object.".to_owned()),
        ]
    );
}

#[test]
fn no_evaluations_are_one_evaluation() {
    for evaluations_member in ["", r#", "evaluations": []"#, r#", "evaluations": null"#] {
        let text = format!(
            "{{ \"subject\": {{ \"type\": \"t\", \"id\": \"T\" }}, {WHOLE} {evaluations_member} }}"
        );
        let expected = Evaluations::One(scope("T", "cards.read"));
        assert_eq!(evaluations(&json(&text)), Ok(expected), "{evaluations_member}");
    }
}

#[test]
fn whole_request_is_malformed_where_its_defaults_or_options_are() {
    let many = vec!["{}"; MAX_BATCH + 1].join(",");
    let many = format!(r#"{{ "evaluations": [{many}] }}"#);
    for (text, error) in [
        ("[]", "The body is no object."),
        (r#"{ "evaluations": {} }"#, "evaluations is no array."),
        (r#"{ "subject": "alice", "evaluations": [{}] }"#, "subject is no object."),
        (r#"{ "options": 1, "evaluations": [{}] }"#, "options is no object."),
        (
            r#"{ "options": { "evaluations_semantic": "all" }, "evaluations": [{}] }"#,
            "options.evaluations_semantic is none of execute_all, deny_on_first_deny and \
             permit_on_first_permit.",
        ),
        (
            r#"{ "evaluations": [{}], "evaluations": [] }"#,
            "“evaluations” is there more than once: send it once.",
        ),
        (&*many, "evaluations has 1001 items; the most is 1000."),
    ] {
        let found = evaluations(&json(text)).unwrap_err().to_string();
        assert_eq!(found, error);
    }
}

#[test]
fn text_that_is_no_json_is_refused_without_repeating_it() {
    let deep = "[".repeat(10_000);
    for text in
        [&b""[..], b" ", b"{", b"{\"id\": \"secret", b"{} {}", b"\xff", b"NaN", deep.as_bytes()]
    {
        let error = Json::parse(text).unwrap_err().to_string();
        assert!(error.starts_with("The body is ") && !error.contains("secret"), "{error}");
    }
}
