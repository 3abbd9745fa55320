//! Whether what is seen of the cluster still says anything of a claim. It does not once the cluster is
//! gone, nor once another run works on it.

use crate::claim::Verdict;
use crate::context::Context;
use crate::lock;
use std::time::Duration;
use tokio::time::timeout;

/// For the API to show that it is there at all.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// On a machine that has much to do one answer may come too late.
const TRIES: usize = 2;

/// What has become of a cluster on which nothing can be judged any more.
#[derive(Debug)]
pub(super) enum Lost {
    /// It says nothing, or nothing of use, and why.
    Silent(String),
    /// This run may no longer use it, and why.
    TakenOver(String),
}

impl Lost {
    /// Asks the cluster. `None` if it is there, and this run's.
    pub(super) async fn find(context: &Context) -> Option<Self> {
        let client = context.client();
        if let Some(why) = silence(&client).await {
            return Some(Self::Silent(why));
        }
        context.production().taken_over(&client).await.map(Self::TakenOver)
    }

    /// The same for people.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Silent(why) | Self::TakenOver(why) => why.clone(),
        }
    }

    /// What becomes of a failure that was seen on such a cluster.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict::skipped(match self {
            Self::Silent(_) => "the cluster was gone",
            Self::TakenOver(_) => "the cluster was no longer this run's",
        })
    }
}

/// Why the cluster's API is of no use, if it is not.
pub(super) async fn silence(client: &kube::Client) -> Option<String> {
    let mut why = None;
    for _ in 0..TRIES {
        why = Some(unready(client).await?);
    }
    why
}

/// The version would be told without the cluster's store, too.
async fn unready(client: &kube::Client) -> Option<String> {
    let asked = http::Request::get("/readyz").body(Vec::new()).ok()?;
    match timeout(ANSWER, client.request_text(asked)).await {
        Ok(Ok(_)) => None,
        // Whatever else it says, it is there. With 5xx a proxy may speak in its stead.
        Ok(Err(kube::Error::Api(status))) if status.code != 401 && status.code < 500 => None,
        Ok(Err(error)) => Some(lock::gone(error)),
        Err(_) => Some(format!("the cluster does not answer within {} s", ANSWER.as_secs())),
    }
}
