//! `portcullis denials`.

use clap::Args;

use super::connect::Session;
use super::failure::Failure;
use super::output::{clean, note, note_more, print, table, when, word};
use super::paging::pages;
use super::{Common, proto};

/// What `denials` takes.
#[derive(Debug, Args)]
pub struct DenialsArgs {
    /// Only those of this account's tokens
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Only those of this token
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Stop after this many
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    pub(super) common: Common,
}

pub(super) async fn run(args: DenialsArgs) -> Result<(), Failure> {
    let session = Session::open(args.common).await?;
    let mut client = session.tokens();
    let filter = proto::ListDenialsRequest {
        account_id: args.account.unwrap_or_default(),
        token_id: args.token.unwrap_or_default(),
        ..Default::default()
    };
    let mut unlisted_count = 0;
    let (denials, next_page_token) = pages(Some(args.limit), async |page_size, page_token| {
        let request = proto::ListDenialsRequest { page_size, page_token, ..filter.clone() };
        let page = client.list_denials(request).await.map_err(|s| session.failure(s))?;
        let page = page.into_inner();
        unlisted_count = page.unlisted_count;
        Ok((page.denials, page.next_page_token))
    })
    .await?;
    let answer = proto::ListDenialsResponse { denials, next_page_token, unlisted_count };
    if session.print_json(&answer)? {
        return Ok(());
    }
    if answer.denials.is_empty() {
        if answer.unlisted_count == 0 {
            note("nothing was denied in the last 7 days");
        }
    } else {
        let rows: Vec<_> = answer.denials.iter().map(row).collect();
        print(&table(
            ["HOUR", "TOKEN", "REASON", "ADDRESS", "OPERATION", "COUNT", "LAST", "FIX"],
            &rows,
        ))?;
    }
    if answer.unlisted_count > 0 {
        note(&format!(
            "denied requests that are not listed: {}; an account had too many different ones in an hour",
            answer.unlisted_count
        ));
    }
    note_more(&answer.next_page_token);
    Ok(())
}

fn row(denial: &proto::Denial) -> [String; 8] {
    let operation = if denial.scope.is_empty() { &denial.operation } else { &denial.scope };
    let reason = match denial.others {
        true => "others".to_owned(),
        false => word(denial.reason().as_str_name(), "REASON_"),
    };
    [
        when(denial.hour.as_ref()),
        denial.token_id.clone(),
        reason,
        denial.client_ip.clone(),
        clean(operation).into_owned(),
        denial.count.to_string(),
        when(denial.last_time.as_ref()),
        denial.fix.as_ref().map(|fix| fix.text.clone()).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_was_denied_and_what_would_allow_it() {
        let denial = proto::Denial {
            token_id: "tok_1".to_owned(),
            reason: proto::Reason::ClientIpNotWhitelisted.into(),
            client_ip: "192.0.2.1".to_owned(),
            scope: "cards.read".to_owned(),
            count: 3,
            fix: Some(proto::DenialFix { change: None, text: "Add it.".to_owned() }),
            ..Default::default()
        };
        assert_eq!(
            row(&denial),
            [
                "",
                "tok_1",
                "client-ip-not-whitelisted",
                "192.0.2.1",
                "cards.read",
                "3",
                "",
                "Add it."
            ]
        );
        let others = proto::Denial { others: true, operation: "GET /x".to_owned(), ..denial };
        assert_eq!(row(&others)[2], "others");
    }
}
