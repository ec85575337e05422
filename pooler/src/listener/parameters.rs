//! Start-up parameters: which of them become session settings, which are dropped, which are refused.

use sluice_wire::message::Report;
use sluice_wire::startup::{self, Replication, StartupMessage};

use super::handshake::{Handshake, Refusal, refuse};
use crate::net::Peer;
use crate::vars::{Var, set_statement};

/// Parameters by name (in lower case) in the order in which they take effect.
pub(super) type Parameters = Vec<(String, String)>;

impl Handshake {
    /// The start-up parameters that become session settings; others are dropped if the configuration says so, or refused.
    pub(super) fn session_parameters(
        &self,
        message: &StartupMessage,
        replication: Replication,
    ) -> Result<Parameters, Refusal> {
        let mut parameters = Parameters::new();
        for (name, value) in &message.params {
            match name.as_str() {
                // A replication client's server gets them as they are.
                "options" if replication != Replication::None => {}
                "options" => self.take_options(value, &mut parameters)?,
                "replication" => {}
                _ if self.is_tracked(name) => set(&mut parameters, name, value),
                _ if self.is_ignored(name) => {}
                _ => {
                    tracing::warn!("{} unsupported startup parameter: {name}={value}", self.log_prefix());
                    return Err(Some(
                        Report::fatal("08P01", format!("unsupported startup parameter: {name}"))
                            .hint("add it to ignore_startup_parameters to have it dropped"),
                    ));
                }
            }
        }
        if self.config.settings.application_name_add_host {
            let name = message.param("application_name").unwrap_or("app");
            set(&mut parameters, "application_name", &format!("{name} - {}", self.address_and_host()));
        }
        Ok(parameters)
    }

    fn take_options(&self, options: &str, parameters: &mut Parameters) -> Result<(), Refusal> {
        let options = startup::parse_options(options)
            .map_err(|error| Some(Report::fatal(error.sqlstate(), error.to_string())))?;
        for (name, value) in options {
            if self.is_tracked(&name) {
                set(parameters, &name, &value);
            } else if !self.is_ignored(&name) && !self.is_ignored("options") {
                let text = "unsupported startup parameter in options:";
                tracing::warn!("{} {text} {name}={value}", self.log_prefix());
                return Err(refuse("08P01", format!("{text} {name}")));
            }
        }
        Ok(())
    }

    fn is_ignored(&self, name: &str) -> bool {
        self.config.settings.ignore_startup_parameters.has(name)
    }

    /// The client's address, as `application_name_add_host` has it: of a process on this machine, with the machine's name.
    fn address_and_host(&self) -> String {
        match self.peer {
            Peer::Tcp(address) => address.to_string(),
            Peer::Unix { pid, port, .. } => {
                let system = rustix::system::uname();
                format!("unix({pid}@{}):{port}", system.nodename().to_string_lossy())
            }
        }
    }

    fn is_tracked(&self, name: &str) -> bool {
        let standard = ["DateStyle", "client_encoding", "TimeZone", "standard_conforming_strings", "application_name"];
        standard.iter().any(|known| known.eq_ignore_ascii_case(name))
            || self.config.settings.track_extra_parameters.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The last value of a parameter counts.
fn set(parameters: &mut Parameters, name: &str, value: &str) {
    let name = name.to_ascii_lowercase();
    parameters.retain(|(known, _)| *known != name);
    parameters.push((name, value.to_owned()));
}

/// The session settings that these parameters are.
pub(super) fn session_vars(parameters: &Parameters) -> Vec<Var> {
    let var = |(name, value): &(String, String)| Var {
        name: name.as_str().into(),
        statement: set_statement(name, value, false).into(),
    };
    parameters.iter().map(var).collect()
}
