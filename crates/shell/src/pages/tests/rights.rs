//! What is somebody's, or administrators', is there for nobody else.

use super::*;

#[tokio::test]
async fn what_is_anothers_is_not_there() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    let ben = server.person("Ben", "admin").await;
    let grain = server.grain("ada", "Secret plan").await;
    let here = ada.get(&format!("/grains/{grain}/details")).await;
    assert_eq!(here.status, StatusCode::OK);
    for path in ["", "/", "/a/b"] {
        let answer = ben.get(&format!("/grain/{grain}{path}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["details", "log", "log/text", "status"] {
        let answer = ben.get(&format!("/grains/{grain}/{path}")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert!(!answer.body.contains("Secret plan"), "{path}");
    }
    for act in ["rename", "star", "stop", "restart", "trash", "restore", "destroy", "wake"] {
        let answer = ben.post(&format!("/grains/{grain}/act"), &format!("act={act}&title=X")).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{act}");
    }
    ben.post("/grains/act", &format!("act=trash&grain={grain}")).await;
    let row = server.app.store.grain(grain.as_str()).await.unwrap().unwrap();
    assert_eq!((row.title.as_str(), row.trashed_at), ("Secret plan", None));
    // An administrator sees that it is there, and not what it is called.
    assert!(!ben.get("/admin").await.body.contains("Secret plan"));
}

#[tokio::test]
async fn administration_is_for_administrators() {
    let server = Server::start(true).await;
    let ada = server.person("Ada", "member").await;
    for path in ["/admin", "/admin/people", "/admin/packages", "/admin/limits", "/admin/log"] {
        assert_eq!(ada.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    // Also with a form that nobody could read.
    for form in ["act=name&name=X", "act=set&subject=account:1&name=memory&value=1G", ""] {
        for path in ["/admin", "/admin/limits"] {
            assert_eq!(ada.post(path, form).await.status, StatusCode::NOT_FOUND, "{path} {form}");
        }
    }
    assert!(!ada.get("/").await.body.contains("/admin"));
}

#[tokio::test]
async fn visitors_make_and_install_nothing() {
    let server = Server::start(true).await;
    let vic = server.person("Vic", "visitor").await;
    server.package(1).await;
    assert_eq!(vic.get("/install").await.status, StatusCode::FORBIDDEN);
    assert_eq!(vic.get(&format!("/install/{:032x}", 1)).await.status, StatusCode::FORBIDDEN);
    assert_eq!(vic.post("/new", "make=x+0").await.status, StatusCode::FORBIDDEN);
    assert!(vic.get("/new").await.body.contains("for members"));
}

/// Who knows an app's id and has nothing of it learns no more than of an app that nobody has.
#[tokio::test]
async fn what_others_brought_is_no_app_here() {
    let server = Server::start(true).await;
    let (ada, ben) = (server.person("Ada", "member").await, server.person("Ben", "member").await);
    let (chief, vic) =
        (server.person("Chief", "admin").await, server.person("Vic", "visitor").await);
    let (old, new) = (server.package(1).await, server.package(2).await);
    let path = format!("/apps/{}", old.app_id);
    let id = async |name: &str| server.app.store.account_by_handle(name).await.unwrap().unwrap().id;
    let store = &server.app.store;
    assert!(store.choose_app(id("ada").await, &old).await.unwrap());
    assert!(store.choose_app(id("chief").await, &new).await.unwrap());
    let nothing = ben.get(&format!("/apps/{}", "y".repeat(52))).await;
    assert_eq!(nothing.status, StatusCode::NOT_FOUND);
    // But for the address, and what differs from one page to the next.
    let words = |answer: &Answer| {
        let body = answer.body.replace(&answer.token(), "").replace(&old.app_id, "y");
        body.replace(&"y".repeat(52), "y")
    };
    for other in [&ben, &vic] {
        let answer = other.get(&path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        for secret in [&old.package_id, &new.package_id] {
            assert!(!answer.body.contains(secret) && !answer.body.contains("Notes"));
        }
    }
    assert_eq!(words(&ben.get(&path).await), words(&nothing));
    // Nor does who has one version learn of another that is somebody else's.
    let page = ada.get(&path).await;
    assert!(page.status == StatusCode::OK && page.body.contains(&old.package_id));
    assert!(!page.body.contains(&new.package_id) && !page.body.contains("2.0"), "{}", page.body);
    let page = chief.get(&path).await.body;
    assert!(page.contains("Version <bdi>1.0") && page.contains("Version <bdi>2.0"), "{page}");
    // Somebody who has a grain of it, and took it out of the list.
    server.grain("ben", "Left").await;
    let page = ben.get(&path).await;
    assert!(page.body.contains(&old.package_id) && !page.body.contains(&new.package_id));
    // What is there for everybody.
    let (by, target) = (crate::store::By::Command, new.package_id.as_str());
    let line = crate::store::Audit { by, action: "app-install", target, detail: "" };
    store.choose_app_for_all(&new, &line).await.unwrap();
    for other in [&ada, &ben] {
        assert!(other.get(&path).await.body.contains(&new.package_id));
    }
    assert_eq!(vic.get(&path).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_audit_log_says_from_where() {
    let server = Server::start(true).await;
    let chief = server.person("Chief", "admin").await;
    let address: std::net::IpAddr = "2001:db8::7".parse().unwrap();
    let form = format!("token={}&act=name&name=Harbour", chief.token().await);
    let request = Request::post("/admin")
        .extension(crate::edge::ClientAddr(address))
        .header(header::COOKIE, &chief.cookie)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let answer = server.send(same_origin(request).body(Body::from(form)).unwrap()).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
    let store = &server.app.store;
    crate::identity::open_link(
        &server.app,
        crate::ids::AccountId(1),
        &"a".repeat(22).parse().unwrap(),
    )
    .await
    .unwrap();
    let lines = store.audit_lines(9, 9).await.unwrap();
    let from: Vec<_> = lines.iter().map(|line| (line.action.as_str(), line.address)).collect();
    assert_eq!(from, [("grain-open", None), ("name server", Some(address))]);
    let page = chief.get("/admin/log").await.body;
    assert!(page.contains("<code>2001:db8::7</code>") && page.contains("Operator, by command"));
}
