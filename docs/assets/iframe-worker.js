// The search of the theme runs in a worker. Browsers start none for pages that are opened from disk, so there a hidden frame does its work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #ready;

    constructor(address) {
      super();
      this.#frame.hidden = true;
      this.#ready = new Promise((resolve) => {
        document.addEventListener("DOMContentLoaded", () => resolve(this.#begin(new URL(address, document.baseURI))));
        if (document.readyState !== "loading") resolve(this.#begin(new URL(address, document.baseURI)));
      });
    }

    #begin(address) {
      document.body.append(this.#frame);
      const inside = this.#frame.contentWindow;
      // Scripts in a worker are loaded one after another and take and send messages without a window of their own.
      inside.importScripts = async (...addresses) => {
        for (const each of addresses) await this.#load(new URL(each, address));
      };
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      return this.#load(address);
    }

    #load(address) {
      return new Promise((resolve, reject) => {
        const script = this.#frame.contentDocument.createElement("script");
        script.src = address;
        script.onload = resolve;
        script.onerror = reject;
        this.#frame.contentDocument.head.append(script);
      });
    }

    async postMessage(data) {
      await this.#ready;
      this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}
