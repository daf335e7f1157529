import type { Texts } from "./texts.ts";

export const en: Texts = {
  pages: {
    not_found: {
      title: "Nothing is published here",
      message: "There is no app at this address.",
      action: "Check the address, or ask whoever gave it to you.",
    },
    file_not_found: {
      title: "Page not found",
      message: "This app has no page at this address.",
      action: "Check the address or go back to the start page.",
    },
    starting: {
      title: "Starting",
      message: "This app is starting.",
      action: "This page opens it by itself as soon as it answers.",
    },
    start_failed: {
      title: "This app did not start",
      message: "It was asked to start and has not answered in time.",
      action: "Try again. If it stays like this, report the request number below.",
    },
    stopped: {
      title: "This app is stopped",
      message: "Its owner has stopped it.",
      action: "Ask its owner to start it again.",
    },
    build_failed: {
      title: "The last build failed",
      message: "This app has no version that could be built yet.",
      action: "If it is yours, read the build's log, correct what it names and publish again.",
    },
    over_quota: {
      title: "This app has reached its limit",
      message: "What its owner's plan allows is used up, so it takes no visitors now.",
      action: "Ask its owner, or come back later.",
    },
    error: {
      title: "This app does not answer",
      message: "The app could not be reached or closed the connection without an answer.",
      action: "Try again shortly. If it stays like this, report the request number below.",
    },
    sandbox_not_found: {
      title: "This sandbox does not run",
      message: "There is no running sandbox at this address.",
      action: "Start it again, or ask whoever gave you the address.",
    },
    port_closed: {
      title: "Nothing listens here yet",
      message: "The sandbox runs, but no program in it listens on this port.",
      action: "Start the program, then load this page again.",
    },
    timeout: {
      title: "This app takes too long",
      message: "The app did not answer in time.",
      action: "Try again shortly. If it stays like this, report the request number below.",
    },
    unavailable: {
      title: "Not available right now",
      message: "The service does not accept requests at this moment. Nothing was changed.",
      action: "Try again in a few seconds.",
    },
    maintenance: {
      title: "Maintenance",
      message: "This app is being worked on.",
      action: "Try again in a few minutes.",
    },
    certificate_pending: {
      title: "The address is being set up",
      message: "The certificate for this address is being issued. Until then it cannot be opened securely.",
      action: "Try again in a minute.",
    },
    busy: {
      title: "Too many requests at once",
      message: "This app is starting and many requests wait for it already.",
      action: "Try again in a few seconds.",
    },
    rate_limited: {
      title: "Too many requests",
      message: "More requests came from you than are allowed in this time.",
      action: "Wait a moment, then try again.",
    },
    private: {
      title: "This preview is private",
      message: "Only people with its link may see it.",
      action: "Open the full link that you were given, or ask its owner for one.",
    },
    bad_request: {
      title: "Bad request",
      message: "The request is not well-formed.",
      action: "Send exactly one valid Host, one framing of the body and a path that starts with a slash.",
    },
    headers_too_large: {
      title: "Request headers too large",
      message: "The headers of the request are larger than 64 KiB.",
      action: "Delete the cookies of this site and try again.",
    },
    method_not_allowed: {
      title: "Method not allowed",
      message: "Only GET and HEAD are possible here.",
      action: "Use GET.",
    },
  },
  request: "Request",
  support: (name) => `Contact ${name} support`,
  retry: "Try again",
  waiting: "Waiting for the app",
  waited: (seconds, limit) => `Waiting for ${seconds} s; gives up after ${limit} s.`,
  gaveUp: (seconds) => `Given up after ${seconds} s.`,
  links: "Support and legal",
};
