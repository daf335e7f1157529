import type { Texts } from "./texts.ts";

export const de: Texts = {
  pages: {
    not_found: {
      title: "Hier ist nichts veröffentlicht",
      message: "Unter dieser Adresse gibt es keine App.",
      action: "Prüfen Sie die Adresse oder fragen Sie, wer sie Ihnen gegeben hat.",
    },
    file_not_found: {
      title: "Seite nicht gefunden",
      message: "Diese App hat unter dieser Adresse keine Seite.",
      action: "Prüfen Sie die Adresse oder gehen Sie zur Startseite zurück.",
    },
    starting: {
      title: "Wird gestartet",
      message: "Diese App wird gerade gestartet.",
      action: "Diese Seite öffnet sie von selbst, sobald sie antwortet.",
    },
    start_failed: {
      title: "Die App ist nicht gestartet",
      message: "Sie wurde gestartet und hat nicht rechtzeitig geantwortet.",
      action: "Versuchen Sie es erneut. Bleibt es so, melden Sie die Anfragenummer unten.",
    },
    stopped: {
      title: "Diese App ist angehalten",
      message: "Ihr Besitzer hat sie angehalten.",
      action: "Bitten Sie ihren Besitzer, sie wieder zu starten.",
    },
    build_failed: {
      title: "Der letzte Build ist fehlgeschlagen",
      message: "Von dieser App gibt es noch keine Version, die sich bauen ließ.",
      action:
        "Ist es Ihre App, lesen Sie das Protokoll des Builds, beheben Sie das Genannte und veröffentlichen Sie erneut.",
    },
    over_quota: {
      title: "Diese App hat ihr Limit erreicht",
      message: "Was der Tarif ihres Besitzers erlaubt, ist aufgebraucht; sie nimmt zurzeit keine Besuche an.",
      action: "Fragen Sie ihren Besitzer oder kommen Sie später wieder.",
    },
    error: {
      title: "Diese App antwortet nicht",
      message: "Die App war nicht erreichbar oder hat die Verbindung ohne Antwort geschlossen.",
      action: "Versuchen Sie es gleich noch einmal. Bleibt es so, melden Sie die Anfragenummer unten.",
    },
    sandbox_not_found: {
      title: "Diese Umgebung läuft nicht",
      message: "Unter dieser Adresse läuft keine Umgebung.",
      action: "Starten Sie sie erneut oder fragen Sie, wer Ihnen die Adresse gegeben hat.",
    },
    port_closed: {
      title: "Hier lauscht noch nichts",
      message: "Die Umgebung läuft, aber kein Programm lauscht auf diesem Port.",
      action: "Starten Sie das Programm und laden Sie diese Seite neu.",
    },
    timeout: {
      title: "Diese App braucht zu lange",
      message: "Die App hat nicht rechtzeitig geantwortet.",
      action: "Versuchen Sie es gleich noch einmal. Bleibt es so, melden Sie die Anfragenummer unten.",
    },
    unavailable: {
      title: "Zurzeit nicht verfügbar",
      message: "Der Dienst nimmt im Moment keine Anfragen an. Es wurde nichts geändert.",
      action: "Versuchen Sie es in ein paar Sekunden erneut.",
    },
    maintenance: {
      title: "Wartung",
      message: "An dieser App wird gearbeitet.",
      action: "Versuchen Sie es in ein paar Minuten erneut.",
    },
    certificate_pending: {
      title: "Die Adresse wird eingerichtet",
      message:
        "Das Zertifikat für diese Adresse wird gerade ausgestellt. Bis dahin lässt sie sich nicht sicher öffnen.",
      action: "Versuchen Sie es in einer Minute erneut.",
    },
    busy: {
      title: "Zu viele Anfragen auf einmal",
      message: "Diese App wird gestartet, und viele Anfragen warten bereits auf sie.",
      action: "Versuchen Sie es in ein paar Sekunden erneut.",
    },
    rate_limited: {
      title: "Zu viele Anfragen",
      message: "Von Ihnen kamen mehr Anfragen, als in dieser Zeit erlaubt sind.",
      action: "Warten Sie einen Moment und versuchen Sie es erneut.",
    },
    private: {
      title: "Diese Vorschau ist privat",
      message: "Nur wer ihren Link hat, darf sie sehen.",
      action:
        "Öffnen Sie den vollständigen Link, den Sie erhalten haben, oder bitten Sie ihren Besitzer darum.",
    },
    bad_request: {
      title: "Ungültige Anfrage",
      message: "Die Anfrage ist nicht wohlgeformt.",
      action:
        "Senden Sie genau einen gültigen Host, eine einzige Begrenzung des Inhalts und einen Pfad, der mit einem Schrägstrich beginnt.",
    },
    headers_too_large: {
      title: "Kopfzeilen zu groß",
      message: "Die Kopfzeilen der Anfrage sind größer als 64 KiB.",
      action: "Löschen Sie die Cookies dieser Website und versuchen Sie es erneut.",
    },
    method_not_allowed: {
      title: "Methode nicht erlaubt",
      message: "Hier sind nur GET und HEAD möglich.",
      action: "Verwenden Sie GET.",
    },
  },
  request: "Anfrage",
  support: (name) => `Support von ${name} kontaktieren`,
  retry: "Erneut versuchen",
  waiting: "Warten auf die App",
  waited: (seconds, limit) => `Wartet seit ${seconds} s; gibt nach ${limit} s auf.`,
  gaveUp: (seconds) => `Nach ${seconds} s aufgegeben.`,
  links: "Support und Rechtliches",
};
