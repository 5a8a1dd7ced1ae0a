// Search runs in a worker, which browsers start for no page that was opened from a disk: there, a hidden frame does it.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      inside.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = new Promise((resolve) => (inside.loaded = () => resolve(inside)));
      inside.document.open();
      inside.document.write(
        `<script>postMessage = (data) => answer(data)</script><script src="${url}" onload="loaded()"></script>`
      );
      inside.document.close();
    }
    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
