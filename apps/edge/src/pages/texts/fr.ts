import type { Texts } from "./texts.ts";

export const fr: Texts = {
  pages: {
    not_found: {
      title: "Rien n’est publié ici",
      message: "Il n’y a pas d’application à cette adresse.",
      action: "Vérifiez l’adresse ou demandez à la personne qui vous l’a donnée.",
    },
    file_not_found: {
      title: "Page introuvable",
      message: "Cette application n’a pas de page à cette adresse.",
      action: "Vérifiez l’adresse ou revenez à la page d’accueil.",
    },
    starting: {
      title: "Démarrage",
      message: "Cette application démarre.",
      action: "Cette page l’ouvrira d’elle-même dès qu’elle répondra.",
    },
    start_failed: {
      title: "L’application n’a pas démarré",
      message: "Son démarrage a été demandé et elle n’a pas répondu à temps.",
      action: "Réessayez. Si cela persiste, communiquez le numéro de requête ci-dessous.",
    },
    stopped: {
      title: "Cette application est arrêtée",
      message: "Son propriétaire l’a arrêtée.",
      action: "Demandez à son propriétaire de la redémarrer.",
    },
    build_failed: {
      title: "La dernière compilation a échoué",
      message: "Aucune version de cette application n’a encore pu être compilée.",
      action:
        "Si elle est à vous, lisez le journal de compilation, corrigez ce qu’il indique et publiez à nouveau.",
    },
    over_quota: {
      title: "Cette application a atteint sa limite",
      message:
        "Ce que permet la formule de son propriétaire est épuisé ; elle n’accepte pas de visite pour le moment.",
      action: "Contactez son propriétaire ou revenez plus tard.",
    },
    error: {
      title: "Cette application ne répond pas",
      message: "L’application est injoignable ou a fermé la connexion sans répondre.",
      action: "Réessayez dans un instant. Si cela persiste, communiquez le numéro de requête ci-dessous.",
    },
    sandbox_not_found: {
      title: "Cet environnement n’est pas démarré",
      message: "Aucun environnement n’est en marche à cette adresse.",
      action: "Redémarrez-le ou demandez à la personne qui vous a donné l’adresse.",
    },
    port_closed: {
      title: "Rien n’écoute encore ici",
      message: "L’environnement fonctionne, mais aucun programme n’écoute sur ce port.",
      action: "Démarrez le programme, puis rechargez cette page.",
    },
    timeout: {
      title: "Cette application met trop de temps",
      message: "L’application n’a pas répondu à temps.",
      action: "Réessayez dans un instant. Si cela persiste, communiquez le numéro de requête ci-dessous.",
    },
    unavailable: {
      title: "Indisponible pour le moment",
      message: "Le service n’accepte pas de requêtes en ce moment. Rien n’a été modifié.",
      action: "Réessayez dans quelques secondes.",
    },
    maintenance: {
      title: "Maintenance",
      message: "Cette application est en cours de maintenance.",
      action: "Réessayez dans quelques minutes.",
    },
    certificate_pending: {
      title: "L’adresse est en préparation",
      message:
        "Le certificat de cette adresse est en cours d’émission. D’ici là, elle ne peut pas être ouverte de façon sûre.",
      action: "Réessayez dans une minute.",
    },
    busy: {
      title: "Trop de requêtes à la fois",
      message: "Cette application démarre et de nombreuses requêtes l’attendent déjà.",
      action: "Réessayez dans quelques secondes.",
    },
    rate_limited: {
      title: "Trop de requêtes",
      message: "Vous avez envoyé plus de requêtes que permis pendant cette période.",
      action: "Attendez un instant, puis réessayez.",
    },
    private: {
      title: "Cet aperçu est privé",
      message: "Seules les personnes qui ont son lien peuvent le voir.",
      action: "Ouvrez le lien complet que vous avez reçu ou demandez-en un à son propriétaire.",
    },
    bad_request: {
      title: "Requête incorrecte",
      message: "La requête est mal formée.",
      action:
        "Envoyez un seul Host valide, une seule délimitation du corps et un chemin qui commence par une barre oblique.",
    },
    headers_too_large: {
      title: "En-têtes trop volumineux",
      message: "Les en-têtes de la requête dépassent 64 Kio.",
      action: "Supprimez les cookies de ce site et réessayez.",
    },
    method_not_allowed: {
      title: "Méthode non autorisée",
      message: "Seules GET et HEAD sont possibles ici.",
      action: "Utilisez GET.",
    },
  },
  request: "Requête",
  support: (name) => `Contacter l’assistance ${name}`,
  retry: "Réessayer",
  waiting: "En attente de l’application",
  waited: (seconds, limit) => `En attente depuis ${seconds} s ; abandon après ${limit} s.`,
  gaveUp: (seconds) => `Abandon après ${seconds} s.`,
  links: "Assistance et mentions légales",
};
