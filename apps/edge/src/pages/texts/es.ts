import type { Texts } from "./texts.ts";

export const es: Texts = {
  pages: {
    not_found: {
      title: "Aquí no hay nada publicado",
      message: "No hay ninguna aplicación en esta dirección.",
      action: "Compruebe la dirección o pregunte a quien se la dio.",
    },
    file_not_found: {
      title: "Página no encontrada",
      message: "Esta aplicación no tiene ninguna página en esta dirección.",
      action: "Compruebe la dirección o vuelva a la página de inicio.",
    },
    starting: {
      title: "Iniciando",
      message: "La aplicación se está iniciando.",
      action: "Esta página la abrirá por sí sola en cuanto responda.",
    },
    start_failed: {
      title: "La aplicación no se ha iniciado",
      message: "Se pidió que se iniciara y no ha respondido a tiempo.",
      action: "Inténtelo de nuevo. Si sigue igual, comunique el número de solicitud que aparece abajo.",
    },
    stopped: {
      title: "La aplicación está detenida",
      message: "Su propietario la ha detenido.",
      action: "Pida a su propietario que vuelva a iniciarla.",
    },
    build_failed: {
      title: "La última compilación falló",
      message: "Aún no existe ninguna versión de esta aplicación que se haya podido compilar.",
      action: "Si es suya, lea el registro de la compilación, corrija lo que indica y publique de nuevo.",
    },
    over_quota: {
      title: "La aplicación ha alcanzado su límite",
      message: "Lo que permite el plan de su propietario está agotado; por ahora no admite visitas.",
      action: "Consulte a su propietario o vuelva más tarde.",
    },
    error: {
      title: "La aplicación no responde",
      message: "No se pudo llegar a la aplicación o cerró la conexión sin responder.",
      action:
        "Inténtelo de nuevo en breve. Si sigue igual, comunique el número de solicitud que aparece abajo.",
    },
    sandbox_not_found: {
      title: "Este entorno no está en marcha",
      message: "No hay ningún entorno en marcha en esta dirección.",
      action: "Inícielo de nuevo o pregunte a quien le dio la dirección.",
    },
    port_closed: {
      title: "Aquí aún no escucha nadie",
      message: "El entorno está en marcha, pero ningún programa escucha en este puerto.",
      action: "Inicie el programa y vuelva a cargar esta página.",
    },
    timeout: {
      title: "La aplicación tarda demasiado",
      message: "La aplicación no respondió a tiempo.",
      action:
        "Inténtelo de nuevo en breve. Si sigue igual, comunique el número de solicitud que aparece abajo.",
    },
    unavailable: {
      title: "No disponible por el momento",
      message: "El servicio no acepta solicitudes en este momento. No se ha cambiado nada.",
      action: "Inténtelo de nuevo en unos segundos.",
    },
    maintenance: {
      title: "Mantenimiento",
      message: "Se está trabajando en esta aplicación.",
      action: "Inténtelo de nuevo en unos minutos.",
    },
    certificate_pending: {
      title: "La dirección se está preparando",
      message:
        "Se está emitiendo el certificado de esta dirección. Hasta entonces no se puede abrir de forma segura.",
      action: "Inténtelo de nuevo en un minuto.",
    },
    busy: {
      title: "Demasiadas solicitudes a la vez",
      message: "La aplicación se está iniciando y ya hay muchas solicitudes esperando.",
      action: "Inténtelo de nuevo en unos segundos.",
    },
    rate_limited: {
      title: "Demasiadas solicitudes",
      message: "Ha enviado más solicitudes de las permitidas en este tiempo.",
      action: "Espere un momento e inténtelo de nuevo.",
    },
    private: {
      title: "Esta vista previa es privada",
      message: "Solo pueden verla quienes tengan su enlace.",
      action: "Abra el enlace completo que recibió o pida uno a su propietario.",
    },
    bad_request: {
      title: "Solicitud incorrecta",
      message: "La solicitud no está bien formada.",
      action:
        "Envíe un solo Host válido, una sola delimitación del cuerpo y una ruta que empiece por una barra.",
    },
    headers_too_large: {
      title: "Cabeceras demasiado grandes",
      message: "Las cabeceras de la solicitud superan los 64 KiB.",
      action: "Borre las cookies de este sitio e inténtelo de nuevo.",
    },
    method_not_allowed: {
      title: "Método no permitido",
      message: "Aquí solo son posibles GET y HEAD.",
      action: "Use GET.",
    },
  },
  request: "Solicitud",
  support: (name) => `Contactar con el soporte de ${name}`,
  retry: "Intentarlo de nuevo",
  waiting: "Esperando a la aplicación",
  waited: (seconds, limit) => `Esperando desde hace ${seconds} s; desiste a los ${limit} s.`,
  gaveUp: (seconds) => `Se desistió tras ${seconds} s.`,
  links: "Soporte e información legal",
};
