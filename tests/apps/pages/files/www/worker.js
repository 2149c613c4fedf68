// Tries to leave by every way a worker has; tells what became of each.
onmessage = async ({ data: target }) => {
  const tried = {};
  const ways = {
    fetch: () => fetch(`${target}/worker-fetch`, { mode: "no-cors" }),
    importScripts: () => importScripts(`${target}/worker-import.js`),
    socket: () => new Promise((resolve, reject) => {
      const socket = new WebSocket(`${target.replace("http", "ws")}/worker-socket`);
      socket.onopen = resolve;
      socket.onerror = () => reject(new Error("refused"));
    }),
    xhr: () => new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("GET", `${target}/worker-xhr`);
      request.onload = resolve;
      request.onerror = () => reject(new Error("refused"));
      request.send();
    }),
  };
  for (const [name, way] of Object.entries(ways)) {
    try { await way(); tried[name] = "went out"; } catch { tried[name] = "refused"; }
  }
  postMessage(tried);
};
