// Lets the site be searched where it is opened as a file: browsers start no worker there, so its
// script runs in a hidden frame instead. The theme asks for nothing else of a worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.documentElement.append(frame)
      const inside = frame.contentWindow
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.send = data => inside.dispatchEvent(new MessageEvent("message", { data }))
      this.waiting = []
      const script = frame.contentDocument.createElement("script")
      script.src = url
      script.onload = () => {
        this.waiting.forEach(this.send)
        this.waiting = null
      }
      frame.contentDocument.body.append(script)
    }
    postMessage(data) {
      this.waiting ? this.waiting.push(data) : this.send(data)
    }
    terminate() {}
  }
}
