//! An app that refuses everybody, through a connection of its own.

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::grain_capnp::ui_view;
use sandstorm_schema::rpc::connect::Trust;

use super::*;
use crate::grains::session::tests::Place;

/// A supervisor whose app opens no session.
struct Refusing;

impl supervisor::Server for Refusing {
    async fn get_main_view(
        self: Rc<Self>,
        _: supervisor::GetMainViewParams,
        mut results: supervisor::GetMainViewResults,
    ) -> capnp::Result<()> {
        results.get().set_view(capnp_rpc::new_client(Refusing));
        Ok(())
    }
}

impl ui_view::Server for Refusing {
    async fn new_session(
        self: Rc<Self>,
        params: ui_view::NewSessionParams,
        _: ui_view::NewSessionResults,
    ) -> capnp::Result<()> {
        let person = params.get()?.get_user_info()?.get_identity()?;
        drop(person);
        Err(capnp::Error::failed("nobody is let in".into()))
    }
}

#[tokio::test]
async fn sessions_that_are_refused_leave_nothing_behind() {
    let place = Place::new().await;
    let opened = place.open().await;
    let found = place.shared.session_by_cookie(&opened.host, &[&opened.sid]).await;
    let session = found.unwrap().unwrap();
    let work = async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let main: supervisor::Client = capnp_rpc::new_client(Refusing);
        let peer = Vat::spawn(theirs, Side::Server, Some(main.client), Trust::Peer);
        let conn = Conn::new(&place.shared, &session.entry, ours, None);
        let visitor = || Visitor { user_agent: "", languages: Vec::new() };
        for _ in 0..10_000 {
            assert!(conn.session(&session, visitor()).await.is_err());
        }
        // The last ones' ends are on their way.
        let mut count = conn.identities.count();
        for _ in 0..100 {
            if count == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            count = conn.identities.count();
        }
        assert!(count < 2 * MAX_SESSIONS, "{count} entries");
        conn.disconnect().await;
        drop(peer);
    };
    tokio::task::LocalSet::new().run_until(work).await;
}
