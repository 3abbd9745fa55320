//! `labs room`: the teacher's side of `--room`.

use super::common::{block_on, print};
use super::interrupt::interruption;
use crate::room;
use crate::run::Exit;
use clap::Args;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Args, Debug)]
pub(super) struct Flags {
    /// The address for participants, such as 0.0.0.0:8620 for every network that this machine is in
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

impl Flags {
    /// Serves the room until it is interrupted.
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        block_on(async {
            let interrupted = interruption(false)?;
            let serving = room::serve(self.listen, |address, join, view| {
                _ = print(&invitation(address, join, view));
            });
            tokio::select! {
                () = interrupted => Ok(Exit::Holds),
                served = serving => served.map(|()| Exit::Holds),
            }
        })
    }
}

/// The text for the teacher: the page, and what to hand out.
fn invitation(address: SocketAddr, join: &str, view: &str) -> String {
    let everywhere = address.ip().is_unspecified();
    let here = if everywhere { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let page = SocketAddr::new(here, address.port());
    let host = if everywhere { format!("ADDRESS:{}", address.port()) } else { address.to_string() };
    let which = if everywhere { ", with an address of this machine for ADDRESS" } else { "" };
    format!(
        "page: http://{page}/#{view}\nparticipants{which}:\n  cargo xtask lab phase4 --participant NAME --room \
         http://{host}/#{join}\n  cargo xtask ui phase4 --participant NAME --room http://{host}/#{join}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invitation_has_the_page_of_this_machine_and_an_address_for_others() {
        let text = invitation(([0, 0, 0, 0], 8620).into(), "j", "v");
        assert!(text.starts_with("page: http://127.0.0.1:8620/#v\n"), "{text}");
        assert!(text.contains("--room http://ADDRESS:8620/#j"), "{text}");
        let text = invitation(([10, 0, 0, 5], 8620).into(), "j", "v");
        assert!(text.contains("--room http://10.0.0.5:8620/#j") && !text.contains("ADDRESS"));
    }
}
