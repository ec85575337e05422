//! Start-up parameters: which of them become session settings, which are dropped, which are refused.

use sluice_wire::message::Report;
use sluice_wire::startup::{self, StartupMessage};

use super::handshake::{Handshake, Refusal, refuse};
use crate::vars::{Var, set_statement};

impl Handshake {
    /// The start-up parameters that become session settings; others are dropped if the configuration says so, or refused.
    pub(super) fn session_vars(&self, message: &StartupMessage) -> Result<Vec<Var>, Refusal> {
        let settings = &self.config.settings;
        let ignored = |name: &str| settings.ignore_startup_parameters.has(name);
        let mut vars: Vec<Var> = Vec::new();
        let mut set = |name: &str, value: &str| {
            let name = name.to_ascii_lowercase();
            vars.retain(|var| *var.name != *name);
            let statement = set_statement(&name, value, false).into();
            vars.push(Var { name: name.into(), statement });
        };
        for (name, value) in &message.params {
            if name == "options" {
                let options = startup::parse_options(value)
                    .map_err(|error| Some(Report::fatal(error.sqlstate(), error.to_string())))?;
                for (name, value) in options {
                    if self.is_tracked(&name) {
                        set(&name, &value);
                    } else if !ignored(&name) && !ignored("options") {
                        return Err(refuse("08P01", format!("unsupported startup parameter in options: {name}")));
                    }
                }
            } else if name == "replication" {
                if !matches!(value.as_str(), "false" | "off" | "no" | "0") {
                    return Err(refuse("0A000", "replication connections are not supported in this version"));
                }
            } else if self.is_tracked(name) {
                set(name, value);
            } else if !ignored(name) {
                return Err(Some(
                    Report::fatal("08P01", format!("unsupported startup parameter: {name}"))
                        .hint("add it to ignore_startup_parameters to have it dropped"),
                ));
            }
        }
        if settings.application_name_add_host {
            let name = message.param("application_name").unwrap_or("app");
            set("application_name", &format!("{name} - {}", self.peer));
        }
        Ok(vars)
    }

    fn is_tracked(&self, name: &str) -> bool {
        let standard = ["DateStyle", "client_encoding", "TimeZone", "standard_conforming_strings", "application_name"];
        standard.iter().any(|known| known.eq_ignore_ascii_case(name))
            || self.config.settings.track_extra_parameters.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The value inside [`set_statement`]'s text.
pub(super) fn startup_value(statement: &str) -> Option<String> {
    let (_, rest) = statement.split_once(", '")?;
    Some(rest.strip_suffix("', false)")?.replace("''", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_up_value_is_read_back() {
        assert_eq!(startup_value(&set_statement("timezone", "it's", false)).as_deref(), Some("it's"));
    }
}
