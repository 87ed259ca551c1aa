//! Lists, page by page, as far as somebody wants to read.

use super::failure::Failure;

/// How many items are asked for at once. Where they are large, the server gives fewer.
const PAGE: i32 = 500;

/// The flag that bounds a list.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Limit {
    /// Stop after this many; without it, list all of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
}

/// Fetches pages until the last one or the limit. `fetch` takes a page's size and where it goes on;
/// the answer is the items, and where the list would go on: empty at its end.
pub(super) async fn pages<T>(
    limit: Option<u32>,
    mut fetch: impl AsyncFnMut(i32, String) -> Result<(Vec<T>, String), Failure>,
) -> Result<(Vec<T>, String), Failure> {
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut items = Vec::new();
    let mut next = String::new();
    loop {
        let size = i32::try_from(limit - items.len()).unwrap_or(PAGE).min(PAGE);
        let (mut page, following) = fetch(size, next.clone()).await?;
        items.append(&mut page);
        items.truncate(limit);
        if following.is_empty() || items.len() == limit {
            return Ok((items, following));
        }
        if following == next {
            return Err(Failure::Usage(
                "the server's list does not go on: it names the same page again".to_owned(),
            ));
        }
        next = following;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server with seven items and pages of at most three.
    async fn seven(limit: Option<u32>) -> (Vec<usize>, String, Vec<i32>) {
        let mut sizes = Vec::new();
        let (items, next) = pages(limit, async |size, token: String| {
            sizes.push(size);
            let from = token.parse().unwrap_or(0);
            let to = (from + usize::try_from(size).unwrap().min(3)).min(7);
            Ok(((from..to).collect(), if to < 7 { to.to_string() } else { String::new() }))
        })
        .await
        .unwrap();
        (items, next, sizes)
    }

    #[tokio::test]
    async fn lists_go_on_to_their_end_or_the_limit() {
        let (items, next, sizes) = seven(None).await;
        assert_eq!((items.len(), next.as_str(), sizes), (7, "", vec![PAGE; 3]));
        let (items, next, sizes) = seven(Some(5)).await;
        assert_eq!((items, next.as_str(), sizes), (vec![0, 1, 2, 3, 4], "5", vec![5, 2]));
        assert_eq!(seven(Some(7)).await.1, "");
    }

    #[tokio::test]
    async fn a_server_that_turns_in_circles_is_left() {
        let result = pages(None, async |_, _| Ok((vec![1], "again".to_owned()))).await;
        assert!(result.is_err());
    }
}
