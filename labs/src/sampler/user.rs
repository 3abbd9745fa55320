//! Users: clients with a cookie jar, as browsers are. Each request is on a connection of its own.

use super::generator::Sampler;
use super::response::{Failure, Response};
use futures::stream::{self, StreamExt as _};
use std::collections::BTreeMap;

/// A client that sends the cookies it got. Their attributes are ignored: all requests are to one site, and
/// a user is forgotten before a cookie could expire.
#[derive(Clone, Debug)]
pub(crate) struct User {
    sampler: Sampler,
    cookies: BTreeMap<String, String>,
}

impl User {
    /// A user without cookies.
    pub(crate) fn new(sampler: &Sampler) -> Self {
        Self { sampler: sampler.clone(), cookies: BTreeMap::new() }
    }

    /// Sends one request with all cookies, and keeps those of the response.
    pub(crate) async fn request(&mut self) -> Result<Response, Failure> {
        let cookies: Vec<String> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let response = if cookies.is_empty() {
            self.sampler.fetch().await?
        } else {
            self.sampler.clone().header("cookie", &cookies.join("; ")).fetch().await?
        };
        for set in response.headers("set-cookie") {
            let pair = set.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.insert(name.trim().to_owned(), value.trim().to_owned());
            }
        }
        Ok(response)
    }

    /// Sends `requests` requests by each of `users` users, some users at a time. Returns the version of
    /// each response, user by user.
    ///
    /// # Errors
    /// The first failure; a response without a version is one.
    pub(crate) async fn crowd(
        sampler: &Sampler,
        users: u64,
        requests: u64,
    ) -> Result<Vec<Vec<String>>, Failure> {
        let one = async |()| {
            let mut user = Self::new(sampler);
            let mut versions = Vec::new();
            for _ in 0..requests {
                let response = user.request().await?;
                let version = response.version().map(str::to_owned);
                versions.push(version.ok_or(Failure::Status(response.status))?);
            }
            Ok(versions)
        };
        let mut all = stream::iter((0..users).map(|_| one(()))).buffer_unordered(sampler.in_flight);
        let mut crowd = Vec::new();
        while let Some(versions) = all.next().await {
            crowd.push(versions?);
        }
        Ok(crowd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test(flavor = "multi_thread")]
    async fn user_sends_the_cookies_it_got() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Responds with the cookies of the request as its version, and sets two more.
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let n = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..n]).into_owned();
                let cookies = request.lines().find_map(|line| line.strip_prefix("cookie: "));
                let version = cookies.map_or(0, |cookies| cookies.split("; ").count());
                let body = format!("{version}.0\n");
                let response = format!(
                    "HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\nset-cookie: b=2\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        });
        let sampler = Sampler::new(address, "foo.bar", "/version", Duration::from_secs(10));
        let crowd = User::crowd(&sampler, 3, 3).await.unwrap();
        assert_eq!(crowd, vec![vec!["0.0", "2.0", "2.0"]; 3]);
    }
}
