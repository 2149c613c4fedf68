//! Limits of grains by the control socket.

use sandstorm_schema::ext_control_capnp::{control, limit_subject};
use sandstorm_schema::grain_limits::{self, Names, PERSON, TABLE, parse_any_value};
use sandstorm_schema::rpc::error::failed;

use super::server::{ControlImpl, say};
use crate::cli::output::called;
use crate::identity;
use crate::limits::fits;
use crate::store::{Audit, By, LimitSubject};

impl ControlImpl {
    pub async fn limits_list(&self, mut results: control::LimitListResults) -> capnp::Result<()> {
        let app = &self.app;
        let exceptions = app.store.all_limits().await.map_err(say)?;
        let accounts = app.store.accounts().await.map_err(say)?;
        let known: Vec<_> = exceptions
            .iter()
            .filter_map(|row| grain_limits::find_any(&row.name).map(|limit| (row, limit)))
            .collect();
        let rows = TABLE.len() + PERSON.len();
        let mut list = results.get().init_limits((rows + known.len()) as u32);
        for (index, limit) in TABLE.iter().chain(PERSON).enumerate() {
            let mut item = list.reborrow().get(index as u32);
            item.reborrow().init_subject().set_server(());
            item.set_name(limit.name);
            item.set_value(app.config.grain_limits.value(limit));
            item.set_unit(limit.unit);
            item.set_ceiling(limit.ceiling);
        }
        for (index, (row, limit)) in known.iter().enumerate() {
            let mut item = list.reborrow().get((rows + index) as u32);
            let mut subject = item.reborrow().init_subject();
            match &row.subject {
                LimitSubject::App(id) => subject.set_app(&**id),
                LimitSubject::Account(id) => {
                    let owner = accounts.iter().find(|account| account.id == *id);
                    subject.set_account(owner.map_or("", |account| &account.handle));
                }
            }
            item.set_name(limit.name);
            item.set_value(u64::try_from(row.value).unwrap_or(0));
            item.set_unit(limit.unit);
            item.set_ceiling(limit.ceiling);
        }
        Ok(())
    }

    pub async fn limits_set(&self, params: control::LimitSetParams) -> capnp::Result<()> {
        let (name, value, who) = {
            let params = params.get()?;
            let who = Who::read(params.get_subject()?)?;
            (params.get_name()?.to_string()?, params.get_value()?.to_string()?, who)
        };
        drop(params);
        let (limit, number) = parse_any_value(&name, &value).map_err(|e| failed(e.to_string()))?;
        let subject = self.subject(&who, false).await?;
        fits(limit, number, &subject).map_err(say)?;
        let store = &self.app.store;
        let number = i64::try_from(number).map_err(|e| failed(e.to_string()))?;
        let detail = &format!("{}={number}", limit.name);
        let audit = Audit { by: By::Command, action: "limit-set", target: &who.0, detail };
        store.set_limit(&subject, limit.name, number, &audit).await.map_err(say)
    }

    pub async fn limits_clear(
        &self,
        params: control::LimitClearParams,
        mut results: control::LimitClearResults,
    ) -> capnp::Result<()> {
        let (name, who) = {
            let params = params.get()?;
            (params.get_name()?.to_string()?, Who::read(params.get_subject()?)?)
        };
        drop(params);
        let name = match name.as_str() {
            "" => None,
            name => Some(find(name)?),
        };
        let subject = self.subject(&who, true).await?;
        let store = &self.app.store;
        let detail = name.unwrap_or("all");
        let audit = Audit { by: By::Command, action: "limit-clear", target: &who.0, detail };
        let cleared = store.clear_limits(&subject, name, &audit).await.map_err(say)?;
        results.get().set_cleared(u32::try_from(cleared).unwrap_or(u32::MAX));
        Ok(())
    }

    /// `gone`: an app that was deleted will do too, if it left limits: they wait for its return.
    async fn subject(&self, Who(name, is_app): &Who, gone: bool) -> capnp::Result<LimitSubject> {
        let store = &self.app.store;
        if !is_app {
            let account = identity::account_named(store, name).await.map_err(say)?;
            return Ok(LimitSubject::Account(account.id));
        }
        let subject = LimitSubject::App(name.clone());
        let known = !store.packages_of_app(name).await.map_err(say)?.is_empty()
            || gone && !store.limits_of(&subject).await.map_err(say)?.is_empty();
        match known {
            true => Ok(subject),
            false => Err(failed(format!(
                "no app {name} is installed; `{} app list` shows those that are",
                called()
            ))),
        }
    }
}

/// The limit's name as the table has it.
fn find(name: &str) -> capnp::Result<&'static str> {
    grain_limits::find_any(name).map(|limit| limit.name).ok_or_else(|| {
        failed(format!("no limit is called {name:?}; there are {}", Names(&[TABLE, PERSON])))
    })
}

/// Name, and whether it is an app's.
struct Who(String, bool);

impl Who {
    fn read(subject: limit_subject::Reader<'_>) -> capnp::Result<Who> {
        match subject.which()? {
            // App ids are read whatever their case.
            limit_subject::Which::App(id) => Ok(Who(id?.to_string()?.to_ascii_lowercase(), true)),
            limit_subject::Which::Account(name) => Ok(Who(name?.to_string()?, false)),
            limit_subject::Which::Server(()) => Err(failed(
                "the server's own limits are a setting: GRAIN_LIMITS, or grain_limits in \
                 sandstorm.toml",
            )),
        }
    }
}
