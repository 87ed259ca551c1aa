//! What must hold of every answer, whatever was asked: who may frame it, what it may load, who may keep
//! it; and that nothing on it runs but the page's own script.

use std::collections::{BTreeMap, VecDeque};

use crate::support::html;
use crate::support::http::{Answer, Http};

/// The most pages that a walk looks at. There are fewer; a walk that goes on is a fault.
const MOST_PAGES: usize = 400;

/// That the browser is told what this answer may do, and that it is no fault of the server's.
#[track_caller]
pub(crate) fn guarded(answer: &Answer) {
    assert!(answer.status < 500, "{answer}");
    protected(answer);
}

/// That the browser is told what this answer may do.
#[track_caller]
pub(crate) fn protected(answer: &Answer) {
    policy(answer);
    assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{answer}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer}");
    assert_eq!(answer.header("referrer-policy"), Some("same-origin"), "{answer}");
    let cache = answer.header("cache-control").unwrap_or_default();
    let asset = answer.asked.contains(" /assets/") && answer.status == 200;
    if asset {
        assert!(cache.contains("immutable") && cache.contains("max-age="), "{answer}");
    } else {
        assert!(cache.split(',').any(|word| word.trim() == "no-store"), "{answer}");
    }
    for name in ["server", "x-powered-by", "access-control-allow-origin"] {
        assert_eq!(answer.header(name), None, "{answer}");
    }
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        inert(answer);
    }
}

/// The policy as a whole: what may be loaded is from here and spelled out, and nothing inline.
#[track_caller]
fn policy(answer: &Answer) {
    let text = answer.header("content-security-policy").unwrap_or_else(|| panic!("{answer}"));
    let directives: BTreeMap<&str, Vec<&str>> = text
        .split(';')
        .map(str::split_whitespace)
        .filter_map(|mut words| Some((words.next()?, words.collect())))
        .collect();
    for (name, value) in [
        ("default-src", "'none'"),
        ("base-uri", "'none'"),
        ("form-action", "'self'"),
        ("frame-ancestors", "'none'"),
    ] {
        assert_eq!(directives.get(name), Some(&vec![value]), "{name}: {answer}");
    }
    let loads = ["script-src", "style-src", "img-src", "connect-src", "font-src", "manifest-src"];
    let rest = directives.iter().filter(|(name, _)| {
        !["default-src", "base-uri", "form-action", "frame-ancestors"].contains(name)
    });
    for (name, value) in rest {
        let bare = ["require-trusted-types-for 'script'", "trusted-types 'none'"];
        let whole = format!("{name} {}", value.join(" "));
        let from_here = loads.contains(name) && (value == &["'self'"] || value == &["'none'"]);
        assert!(from_here || bare.contains(&whole.as_str()), "`{whole}`: {answer}");
    }
}

/// That nothing runs on this page but its own script, and that it loads nothing from elsewhere.
#[track_caller]
pub(crate) fn inert(answer: &Answer) {
    for tag in answer.tags() {
        let fault = |what: &str| panic!("{what}: {tag:?}\n{answer}");
        if tag.name == "script" {
            let own = tag.get("src").is_some_and(|source| source.starts_with("/assets/"));
            if !own || !tag.text.trim().is_empty() {
                fault("a script that is not ours");
            }
        }
        let never = ["style", "base", "iframe", "object", "embed", "frame", "applet"];
        if never.contains(&tag.name.as_str()) {
            fault("what a page never has");
        }
        for (name, value) in &tag.attributes {
            if name.starts_with("on") || name == "style" || name == "srcdoc" {
                fault("an attribute that runs or styles");
            }
            if ["href", "src", "action", "formaction", "poster", "xlink:href"]
                .contains(&name.as_str())
            {
                let here = value.starts_with(['/', '#', '?']) && !value.starts_with("//");
                let own = here && !value.starts_with("/\\") || value.starts_with("mailto:");
                // Sprites in the page itself; an empty action is the page's own address.
                if !own && !value.is_empty() {
                    fault("an address elsewhere");
                }
            }
            if name == "http-equiv" {
                fault("a header within the page");
            }
        }
    }
}

/// Every page that can be reached from `start` by links, as a person would; each is as it must be.
#[track_caller]
pub(crate) fn walk(browser: &mut Http, start: &str) -> Vec<Answer> {
    let mut seen = vec![start.to_owned()];
    let mut next: VecDeque<String> = VecDeque::from(seen.clone());
    let mut answers = Vec::new();
    while let Some(path) = next.pop_front() {
        let answer = browser.get(&path);
        guarded(&answer);
        assert!(answer.status < 400, "a link that leads nowhere: {answer}");
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
            for link in answer.links() {
                if !seen.contains(&link) {
                    seen.push(link.clone());
                    next.push_back(link);
                }
            }
        }
        answers.push(answer);
        assert!(answers.len() < MOST_PAGES, "there is no end of pages: {seen:#?}");
    }
    answers
}

/// That `text` is shown on the page as it is, and as nothing but text.
#[track_caller]
pub(crate) fn shown_as_text(answer: &Answer, text: &str) {
    inert(answer);
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let in_fields = answer.tags().into_iter().flat_map(|tag| tag.attributes);
    let shown = html::words(answer.text()).contains(&squeezed)
        || in_fields.into_iter().any(|(_, value)| value == text);
    assert!(shown, "`{text}` is not shown: {answer}");
}

#[test]
fn what_must_not_be_on_a_page_is_found() {
    let page = |body: &str| Answer {
        asked: "GET /tokens".to_owned(),
        status: 200,
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    };
    inert(&page("<script src=/assets/page.js></script><a href=\"?page=2\">&lt;script&gt;</a>"));
    for planted in [
        "<script>alert(1)</script>",
        "<ScRiPt\nsrc='https://evil.example/x.js'></script>",
        "<script src=/assets/page.js>alert(1)</script>",
        "<p onclick=alert(1)>",
        "<input value='a'onfocus=alert(1)>",
        "<svg/onload=alert(1)>",
        "<a href=\"java&#115;cript:alert(1)\">",
        "<a href=//evil.example>",
        "<a href='/\\evil.example'>",
        "<form action=https://evil.example>",
        "<img src=x>",
        "<p style=color:red>",
        "<style>*{}</style>",
        "<base href=/x>",
        "<meta http-equiv=refresh content=0>",
        "<iframe srcdoc=x></iframe>",
        "</textarea><script>1</script>",
    ] {
        let found = std::panic::catch_unwind(|| inert(&page(planted)));
        assert!(found.is_err(), "{planted}");
    }
    let text = "\"><b onx='1'>";
    shown_as_text(&page("<p>\n&quot;&gt;&lt;b onx=&#39;1&#39;&gt;</p>"), text);
    shown_as_text(&page("<input value=\"&#34;&#62;&#60;b onx='1'&#62;\">"), text);
    for wrong in ["<p>\"&gt;&lt;b&gt;</p>", "<p>&amp;quot;&amp;gt;&lt;b onx='1'&gt;</p>", ""] {
        let found = std::panic::catch_unwind(|| shown_as_text(&page(wrong), text));
        assert!(found.is_err(), "{wrong}");
    }
}
