//! Grains by the control socket.

use std::collections::HashMap;

use sandstorm_schema::ext_control_capnp::{control, grain_info, permission_choice};
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::rpc::error::failed;
use sandstorm_schema::util_capnp::handle;
use tokio::sync::oneshot;

use super::server::{ControlImpl, say};
use crate::cli::output::called;
use crate::grains::{GrainState, Permissions};
use crate::identity;
use crate::ids::GrainId;
use crate::state::Event;
use crate::store::{Account, Audit, By, Grain, Package};

/// Rows of one page of the list.
const PAGE: usize = 500;

fn grain_id(text: capnp::text::Reader<'_>) -> capnp::Result<GrainId> {
    let text = text.to_string()?;
    text.parse().map_err(|e| {
        let shown = identity::text::one_line(&text, 80);
        failed(format!("{shown:?}: {e}; `{} grain list` shows those that are here", called()))
    })
}

impl ControlImpl {
    pub async fn create(
        &self,
        params: control::GrainCreateParams,
        mut results: control::GrainCreateResults,
    ) -> capnp::Result<()> {
        let (app_id, action, title, owner) = {
            let params = params.get()?;
            (
                params.get_app_id()?.to_string()?,
                params.get_action(),
                params.get_title()?.to_string()?,
                params.get_owner()?.to_string()?,
            )
        };
        drop(params);
        let app = &self.app;
        let owner = match owner.as_str() {
            "" => identity::operator(&app.store).await,
            name => identity::owner_named(app, name).await,
        }
        .map_err(say)?;
        let package = self.package_of(&owner, &app_id).await?;
        let actions = app.store.actions(&package.package_id).await.map_err(say)?;
        // Among those that `app list` shows: the manifest has others besides, which nobody can start so.
        let action = actions.get(action as usize).ok_or_else(|| {
            failed(match actions.len() {
                0 => "this app has no actions, so nothing can be made with it".into(),
                1 => format!("this app has no action {action}; it has one, number 0"),
                count => format!(
                    "this app has no action {action}; its actions are numbered 0 to {}",
                    count - 1
                ),
            })
        })?;
        let title = match title.trim() {
            "" => format!("Untitled {}", action.noun),
            title => identity::text::one_line(title, 200),
        };
        let grain = app.grains.create(owner.id, &package, action, &title).await.map_err(say)?;
        // A grain that cannot even start is of no use to anybody.
        if let Err(error) = app.grains.wake(&grain).await {
            if let Err(e) = app.grains.destroy(&grain, None).await {
                tracing::warn!("grain {grain}: {e}");
            }
            app.events.send(Event::AccountChanged(owner.id));
            return Err(say(error));
        }
        results.get().set_grain_id(grain.as_str());
        Ok(())
    }

    async fn package_of(&self, owner: &Account, app_id: &str) -> capnp::Result<Package> {
        let store = &self.app.store;
        // App ids are read whatever their case.
        let app_id = &app_id.to_ascii_lowercase();
        if let Some(package) = store.app_of(owner.id, app_id).await.map_err(say)? {
            return Ok(package);
        }
        let all = store.packages_of_app(app_id).await.map_err(say)?;
        all.into_iter().next().ok_or_else(|| {
            failed(format!(
                "no app {app_id} is installed; `{} app list` shows those that are",
                called()
            ))
        })
    }

    pub async fn list(
        &self,
        params: control::GrainListParams,
        mut results: control::GrainListResults,
    ) -> capnp::Result<()> {
        let (after, limit) = {
            let params = params.get()?;
            (params.get_after()?.to_string()?, params.get_limit() as usize)
        };
        drop(params);
        let mut rows = self.app.store.all_grains().await.map_err(say)?;
        rows.retain(|row| row.id > after);
        rows.sort_by(|a, b| a.id.cmp(&b.id));
        let count = if limit == 0 { PAGE } else { limit.min(PAGE) };
        let more = rows.len() > count;
        rows.truncate(count);
        let accounts = self.app.store.accounts().await.map_err(say)?;
        let owners: HashMap<_, _> =
            accounts.into_iter().map(|account| (account.id, account.handle)).collect();
        // All at once: each is one question to one running supervisor, with a time limit.
        let limits = futures::future::join_all(rows.iter().map(|row| async {
            match row.id.parse() {
                // One that does not say what limits it is listed without.
                Ok(id) => self.app.grains.limits(&id).await.unwrap_or_default(),
                Err(_) => Vec::new(),
            }
        }))
        .await;
        let mut out = results.get();
        if let (true, Some(last)) = (more, rows.last()) {
            out.set_next(&*last.id);
        }
        let mut list = out.init_grains(rows.len() as u32);
        for (index, row) in rows.iter().enumerate() {
            let mut item = list.reborrow().get(index as u32);
            item.set_grain_id(&*row.id);
            item.set_title(&*row.title);
            item.set_app_id(&*row.app_id);
            item.set_owner(owners.get(&row.owner).map_or("", String::as_str));
            item.set_state(self.state_of(row));
            item.set_size(u64::try_from(row.size).unwrap_or(0));
            item.set_trouble(row.exit_reason.as_deref().unwrap_or_default());
            let limits = &limits[index];
            let mut list = item.init_limits(limits.len() as u32);
            for (index, limit) in limits.iter().enumerate() {
                let mut item = list.reborrow().get(index as u32);
                item.set_name(&*limit.name);
                item.set_value(limit.value);
                item.set_by(&*limit.by);
                item.set_used(limit.used);
                item.set_hits(limit.hits);
            }
        }
        Ok(())
    }

    fn state_of(&self, row: &Grain) -> grain_info::State {
        let running = row.id.parse().is_ok_and(|id| {
            matches!(
                self.app.grains.state(&id),
                GrainState::Running | GrainState::Starting { .. } | GrainState::Stopping
            )
        });
        match (row.trashed_at, running) {
            (Some(_), _) => grain_info::State::Trash,
            (None, true) => grain_info::State::Running,
            (None, false) => grain_info::State::Asleep,
        }
    }

    async fn usable(&self, grain: &GrainId) -> capnp::Result<Grain> {
        let found = self.any(grain).await?;
        match found.trashed_at {
            None => Ok(found),
            Some(_) => Err(failed(format!("grain {grain} is in the trash"))),
        }
    }

    async fn any(&self, grain: &GrainId) -> capnp::Result<Grain> {
        let found = self.app.store.grain(grain.as_str()).await.map_err(say)?;
        found.ok_or_else(|| {
            failed(format!("there is no grain {grain}; `{} grain list` shows them", called()))
        })
    }

    pub async fn open(
        &self,
        params: control::GrainOpenParams,
        mut results: control::GrainOpenResults,
    ) -> capnp::Result<()> {
        let grain = grain_id(params.get()?.get_grain_id()?)?;
        drop(params);
        let row = self.usable(&grain).await?;
        let url = identity::open_link(&self.app, row.owner, &grain).await.map_err(say)?;
        results.get().set_url(&*url);
        results.get().set_expires(crate::store::now_ms() / 1000 + identity::OPEN_LINK_SECONDS);
        Ok(())
    }

    pub async fn session(
        &self,
        params: control::GrainSessionParams,
        mut results: control::GrainSessionResults,
    ) -> capnp::Result<()> {
        let (grain, permissions) = {
            let params = params.get()?;
            let permissions = match params.get_permissions()?.which()? {
                permission_choice::Which::All(()) => Permissions::All,
                permission_choice::Which::Named(names) => {
                    let mut list = Vec::new();
                    for name in names? {
                        list.push(name?.to_string()?);
                    }
                    Permissions::Names(list)
                }
            };
            (grain_id(params.get_grain_id()?)?, permissions)
        };
        drop(params);
        self.usable(&grain).await?;
        let session = self.app.grains.open_for_script(&grain, permissions).await.map_err(say)?;
        let mut out = results.get();
        out.set_origin(&*session.origin);
        out.set_cookie(&*session.cookie);
        out.set_expires(session.expires);
        Ok(())
    }

    pub async fn stop(
        &self,
        params: control::GrainStopParams,
        _: control::GrainStopResults,
    ) -> capnp::Result<()> {
        let (grain, now) = {
            let params = params.get()?;
            (grain_id(params.get_grain_id()?)?, params.get_now())
        };
        drop(params);
        self.any(&grain).await?;
        let done = if now {
            self.app.grains.kill(&grain).await
        } else {
            self.app.grains.stop(&grain).await
        };
        done.map_err(say)
    }

    pub async fn delete(
        &self,
        params: control::GrainDeleteParams,
        mut results: control::GrainDeleteResults,
    ) -> capnp::Result<()> {
        let (grain, now) = {
            let params = params.get()?;
            (grain_id(params.get_grain_id()?)?, params.get_now())
        };
        drop(params);
        let row = self.any(&grain).await?;
        if !now && row.trashed_at.is_some() {
            results.get().set_already(true);
            return Ok(());
        }
        let app = self.app.clone();
        // In a task of its own: whoever gives up waiting must not leave it half-done.
        let work = tokio::spawn(async move {
            let (target, detail) = (grain.as_str(), &*row.title);
            let audit = |action| Audit { by: By::Command, action, target, detail };
            if now {
                app.grains.destroy(&grain, Some(&audit("grain-destroy"))).await?;
            } else {
                let audit = audit("grain-trash");
                app.store.trash_grains(row.owner, &[target], true, Some(&audit)).await?;
                app.grains.revoke_grain(&grain);
                app.grains.stop_in_trash(&grain).await?;
            }
            app.events.send(Event::GrainChanged { grain, owner: Some(row.owner) });
            app.events.send(Event::AccountChanged(row.owner));
            Ok::<_, crate::error::Error>(())
        });
        work.await.map_err(|e| failed(e.to_string()))?.map_err(say)
    }

    pub async fn log(
        &self,
        params: control::GrainLogParams,
        mut results: control::GrainLogResults,
    ) -> capnp::Result<()> {
        let (grain, backlog, follow, stream) = {
            let params = params.get()?;
            (
                grain_id(params.get_grain_id()?)?,
                params.get_backlog(),
                params.get_follow(),
                params.get_stream()?,
            )
        };
        drop(params);
        self.any(&grain).await?;
        let (end, mut ended) = oneshot::channel();
        let mut writer = BodyWriter::new(stream);
        if follow {
            let mut log = self.app.grains.log(&grain, backlog).await.map_err(say)?;
            tokio::task::spawn_local(async move {
                loop {
                    let chunk = tokio::select! {
                        chunk = log.recv() => chunk,
                        _ = &mut ended => return,
                    };
                    let Some(chunk) = chunk else { break };
                    if writer.write(chunk).await.is_err() {
                        return;
                    }
                }
                let _ = writer.done().await;
            });
        } else {
            let bytes = self.app.grains.log_so_far(&grain, backlog).await.map_err(say)?;
            tokio::task::spawn_local(async move {
                if writer.write(bytes).await.is_ok() {
                    let _ = writer.done().await;
                }
            });
        }
        results.get().set_handle(capnp_rpc::new_client(HandleImpl(end)));
        Ok(())
    }
}

/// Dropping it ends what it stands for.
struct HandleImpl(#[allow(dead_code)] oneshot::Sender<()>);

impl handle::Server for HandleImpl {}
