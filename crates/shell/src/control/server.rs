//! The bootstrap object of the control socket.

use std::rc::Rc;

use sandstorm_schema::ext_control_capnp::{InstallStep, control, install_progress, installed_app};
use sandstorm_schema::rpc::error::failed;

use super::upload::AppUploadImpl;
use crate::cli::output::called;
use crate::error::Error;
use crate::identity;
use crate::ids::{AccountId, PackageId};
use crate::net::Private;
use crate::state::App;
use crate::store::{Audit, By, InstallState, Package, now_ms};

pub struct ControlImpl {
    pub app: App,
}

/// An error in words for the person at the terminal.
pub fn say(error: impl Into<Error>) -> capnp::Error {
    let error = error.into();
    match error {
        Error::GrainFailed { reason, log_tail, .. } if !log_tail.is_empty() => {
            failed(format!("{reason}\nLast lines of its log:\n{log_tail}"))
        }
        Error::GrainFailed { reason, .. } => failed(reason),
        other => failed(other.to_string()),
    }
}

impl ControlImpl {
    pub fn new(app: App) -> ControlImpl {
        ControlImpl { app }
    }
}

impl control::Server for ControlImpl {
    async fn server_info(
        self: Rc<Self>,
        _: control::ServerInfoParams,
        mut results: control::ServerInfoResults,
    ) -> capnp::Result<()> {
        let mut info = results.get().init_info();
        info.set_version(env!("CARGO_PKG_VERSION"));
        info.set_pid(std::process::id());
        info.set_root_url(self.app.config.root.to_string());
        info.set_home(self.app.config.home.display().to_string());
        Ok(())
    }

    async fn admin_link(
        self: Rc<Self>,
        _: control::AdminLinkParams,
        mut results: control::AdminLinkResults,
    ) -> capnp::Result<()> {
        let audit = Audit { by: By::Command, action: "admin-link", target: "", detail: "" };
        let url = identity::admin_link(&self.app, Some(&audit)).await.map_err(say)?;
        results.get().set_url(&*url);
        results.get().set_expires(now_ms() / 1000 + identity::ADMIN_LINK_SECONDS);
        Ok(())
    }

    async fn app_install(
        self: Rc<Self>,
        params: control::AppInstallParams,
        mut results: control::AppInstallResults,
    ) -> capnp::Result<()> {
        let (size, progress) = {
            let params = params.get()?;
            (params.get_size(), params.get_progress().ok())
        };
        drop(params);
        let owner = identity::operator(&self.app.store).await.map_err(say)?;
        let upload = AppUploadImpl::begin(self.app.clone(), owner.id, size, progress);
        results.get().set_upload(capnp_rpc::new_client(upload));
        Ok(())
    }

    async fn app_install_url(
        self: Rc<Self>,
        params: control::AppInstallUrlParams,
        mut results: control::AppInstallUrlResults,
    ) -> capnp::Result<()> {
        let (url, id, progress) = {
            let params = params.get()?;
            let id = params.get_package_id()?.to_string()?;
            (params.get_url()?.to_string()?, id, params.get_progress().ok())
        };
        drop(params);
        let owner = identity::operator(&self.app.store).await.map_err(say)?;
        let package = if id.is_empty() {
            self.app.installer.install_url(&url, owner.id).await.map_err(say)?
        } else {
            let id: PackageId = id.parse().map_err(|e| failed(format!("{e}")))?;
            self.app.installer.start_url(id, &url, owner.id, Private::Named).await.map_err(say)?;
            finish(&self.app, id, owner.id, progress.as_ref()).await?
        };
        for_everybody(&self.app, &package).await?;
        describe(&self.app, &package, results.get().init_app()).await
    }

    async fn app_list(
        self: Rc<Self>,
        _: control::AppListParams,
        mut results: control::AppListResults,
    ) -> capnp::Result<()> {
        let mut apps = self.app.store.offered_packages().await.map_err(say)?;
        apps.sort_by(|a, b| a.0.title.cmp(&b.0.title));
        let mut list = results.get().init_apps(apps.len() as u32);
        for (index, (package, actions)) in apps.iter().enumerate() {
            let mut app = list.reborrow().get(index as u32);
            app.set_app_id(&*package.app_id);
            app.set_package_id(&*package.package_id);
            app.set_title(&*package.title);
            app.set_version(package.version());
            app.set_app_version(package.number());
            let mut names = app.init_actions(actions.len() as u32);
            for (index, action) in actions.iter().enumerate() {
                names.set(index as u32, format!("New {}", action.noun));
            }
        }
        Ok(())
    }

    async fn app_delete(
        self: Rc<Self>,
        params: control::AppDeleteParams,
        mut results: control::AppDeleteResults,
    ) -> capnp::Result<()> {
        let id = params.get()?.get_id()?.to_string()?.to_ascii_lowercase();
        drop(params);
        let removed = delete_apps(&self.app, &id).await?;
        let mut list = results.get().init_package_ids(removed.len() as u32);
        for (index, id) in removed.iter().enumerate() {
            list.set(index as u32, id);
        }
        Ok(())
    }

    async fn grain_create(
        self: Rc<Self>,
        params: control::GrainCreateParams,
        results: control::GrainCreateResults,
    ) -> capnp::Result<()> {
        self.create(params, results).await
    }

    async fn grain_list(
        self: Rc<Self>,
        params: control::GrainListParams,
        results: control::GrainListResults,
    ) -> capnp::Result<()> {
        self.list(params, results).await
    }

    async fn grain_open(
        self: Rc<Self>,
        params: control::GrainOpenParams,
        results: control::GrainOpenResults,
    ) -> capnp::Result<()> {
        self.open(params, results).await
    }

    async fn grain_session(
        self: Rc<Self>,
        params: control::GrainSessionParams,
        results: control::GrainSessionResults,
    ) -> capnp::Result<()> {
        self.session(params, results).await
    }

    async fn grain_stop(
        self: Rc<Self>,
        params: control::GrainStopParams,
        results: control::GrainStopResults,
    ) -> capnp::Result<()> {
        self.stop(params, results).await
    }

    async fn grain_log(
        self: Rc<Self>,
        params: control::GrainLogParams,
        results: control::GrainLogResults,
    ) -> capnp::Result<()> {
        self.log(params, results).await
    }

    async fn grain_delete(
        self: Rc<Self>,
        params: control::GrainDeleteParams,
        results: control::GrainDeleteResults,
    ) -> capnp::Result<()> {
        self.delete(params, results).await
    }

    async fn limit_list(
        self: Rc<Self>,
        _: control::LimitListParams,
        results: control::LimitListResults,
    ) -> capnp::Result<()> {
        self.limits_list(results).await
    }

    async fn limit_set(
        self: Rc<Self>,
        params: control::LimitSetParams,
        _: control::LimitSetResults,
    ) -> capnp::Result<()> {
        self.limits_set(params).await
    }

    async fn limit_clear(
        self: Rc<Self>,
        params: control::LimitClearParams,
        results: control::LimitClearResults,
    ) -> capnp::Result<()> {
        self.limits_clear(params, results).await
    }

    async fn check(
        self: Rc<Self>,
        _: control::CheckParams,
        mut results: control::CheckResults,
    ) -> capnp::Result<()> {
        let config = self.app.config.clone();
        let problems = tokio::task::spawn_blocking(move || crate::check::of_config(&config))
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut list = results.get().init_problems(problems.len() as u32);
        for (index, problem) in problems.iter().enumerate() {
            let mut item = list.reborrow().get(index as u32);
            item.set_what(&*problem.what);
            item.set_fix(&*problem.fix);
        }
        Ok(())
    }
}

/// Removes what an operator named: a package, or all of an app. The ids of what is gone.
async fn delete_apps(app: &App, id: &str) -> capnp::Result<Vec<String>> {
    let packages: Vec<PackageId> = match id.parse::<PackageId>() {
        Ok(package) => vec![package],
        Err(_) => {
            let all = app.store.packages_of_app(id).await.map_err(say)?;
            all.iter().filter_map(|package| package.package_id.parse().ok()).collect()
        }
    };
    let unknown = || {
        failed(format!(
            "no app and no package is called {id}; `{} app list` shows those that are installed",
            called()
        ))
    };
    if packages.is_empty() {
        return Err(unknown());
    }
    // Of an app all go or none: looked at first, since each is removed by itself.
    for package in &packages {
        app.installer.may_remove(package, None).await.map_err(say)?;
    }
    let mut removed: Vec<String> = Vec::new();
    for id in packages {
        match app.installer.remove(&id, None, By::Command).await {
            Ok(_) => {}
            Err(Error::NotFound(_)) if app.installer.remove_unknown(&id).await.map_err(say)? => {
                let id = id.to_string();
                let line = Audit { by: By::Command, action: "app-delete", target: &id, detail: "" };
                // They are gone: an error now must not read as if they were still there.
                if let Err(error) = app.store.audit(&line).await {
                    tracing::error!("a removed app: {error}");
                }
            }
            Err(Error::NotFound(_)) if removed.is_empty() => return Err(unknown()),
            // Somebody else was quicker.
            Err(Error::NotFound(_)) => continue,
            Err(error) if removed.is_empty() => return Err(say(error)),
            Err(error) => {
                return Err(failed(format!(
                    "{error}. Removed before that: {}",
                    removed.join(", ")
                )));
            }
        }
        removed.push(id.to_string());
    }
    Ok(removed)
}

/// Waits for an installation, telling how far it is.
pub async fn finish(
    app: &App,
    id: PackageId,
    by: AccountId,
    progress: Option<&install_progress::Client>,
) -> capnp::Result<Package> {
    let tell = async {
        if let (Some(mut watch), Some(progress)) = (app.installer.watch(&id), progress) {
            while watch.changed().await.is_ok() {
                let moment = *watch.borrow();
                let mut request = progress.report_request();
                let mut report = request.get();
                report.set_step(match moment.state {
                    InstallState::Get => InstallStep::Get,
                    InstallState::Check => InstallStep::Verify,
                    _ => InstallStep::Extract,
                });
                report.set_done(moment.done);
                report.set_total(moment.total);
                if request.send().promise.await.is_err() {
                    break;
                }
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        package = app.installer.finished(&id, by) => package.map_err(say),
        () = tell => Err(failed("unreachable")),
    }
}

/// What an operator installs is there for everybody.
pub async fn for_everybody(app: &App, package: &Package) -> capnp::Result<()> {
    let (target, detail) = (&*package.package_id, &*package.title);
    let audit = Audit { by: By::Command, action: "app-install", target, detail };
    app.store.choose_app_for_all(package, &audit).await.map_err(say)?;
    app.store.install_ready(&package.package_id).await.map_err(say)?;
    if let Ok(id) = package.package_id.parse() {
        app.events.send(crate::state::Event::InstallChanged(id));
    }
    Ok(())
}

/// What was installed, and whether a newer version of it was there before.
pub async fn describe(
    app: &App,
    package: &Package,
    mut out: installed_app::Builder<'_>,
) -> capnp::Result<()> {
    out.set_package_id(&*package.package_id);
    out.set_app_id(&*package.app_id);
    out.set_title(&*package.title);
    out.set_version(package.version());
    out.set_number(package.number());
    let all = app.store.packages_of_app(&package.app_id).await.map_err(say)?;
    if let Some(newest) = all.first().filter(|newest| newest.app_version > package.app_version) {
        out.set_newer(newest.version());
        out.set_newer_number(newest.number());
    }
    Ok(())
}
