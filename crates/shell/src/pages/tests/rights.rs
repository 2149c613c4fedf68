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
